//! What the UNet and the autoencoder of Stable Diffusion are both built from. Names are diffusers'.

use crate::core::{Tensor, Weights};
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Conv, Epilogue};
use anyhow::Result;

/// Group normalisation and the activation behind it, the same in every block of a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub groups: usize,
    pub eps: f32,
    pub act: Act,
}

impl Blocks {
    /// `norm_num_groups` and `act_fn` of a config.json.
    pub fn new(c: &Config, eps: f32) -> Result<Blocks> {
        Ok(Blocks { groups: c.usize("norm_num_groups", 32)?, eps, act: act_fn(c, "silu")? })
    }

    /// GroupNorm and activation, one kernel.
    #[track_caller]
    pub fn norm(&self, w: &Weights, x: Tensor) -> Tensor {
        nn::group_norm(w, x, self.groups, self.eps, self.act)
    }

    /// ResnetBlock2D: x (N, H, W, C) and an embedded timestep (N or 1, D), in the UNet -> (N, H, W, out).
    #[track_caller]
    pub fn resnet(&self, w: &Weights, x: Tensor, time: Option<Tensor>, out: usize) -> Tensor {
        let h = self.norm(&w.sub("norm1"), x);
        let h = conv1(w, h, time, out);
        let h = self.norm(&w.sub("norm2"), h);
        let x = if x.last() == out { x } else { nn::conv2d(&w.sub("conv_shortcut"), x, out, Conv::same(1)) };
        nn::conv2d(&w.sub("conv2"), h, out, Conv::same(3).plus(x))
    }
}

/// `act_fn` of a config.json.
pub(super) fn act_fn(c: &Config, default: &'static str) -> Result<Act> {
    match c.str("act_fn", default)?.as_str() {
        "silu" | "swish" => Ok(Act::Silu),
        "gelu" => Ok(Act::Gelu),
        "relu" => Ok(Act::Relu),
        other => Err(c.unsupported("act_fn", other)),
    }
}

/// A block's first convolution, shifted by the projected timestep.
#[track_caller]
fn conv1(w: &Weights, x: Tensor, time: Option<Tensor>, out: usize) -> Tensor {
    let (g, conv, project) = (w.graph(), w.sub("conv1"), w.sub("time_emb_proj"));
    match time {
        None => nn::conv2d(&conv, x, out, Conv::same(3)),
        // One timestep for the whole batch: the shift and the bias are one vector.
        Some(time) if time.dim(0) == 1 => {
            let bias = g.reshape(conv.get("bias", &[out]), &[1, out]);
            let bias = nn::linear_with(&project, time, out, Epilogue::plus(bias));
            nn::conv2d_no_bias(&conv, x, out, Conv::same(3).bias(g.reshape(bias, &[out])))
        }
        Some(time) => {
            let y = nn::conv2d(&conv, x, out, Conv::same(3));
            g.add(y, g.reshape(nn::linear(&project, time, out), &[x.dim(0), 1, 1, out]))
        }
    }
}
