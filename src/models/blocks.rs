//! What the UNet and the autoencoder of Stable Diffusion are both built from. Names are diffusers'.

use crate::core::{DType, Tensor, Weights};
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Conv};
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

    /// ResnetBlock2D: x (N, H, W, C) -> (N, H, W, out). In the UNet, `shift` (N or 1, out) is what the timestep adds to each channel behind
    /// the first convolution, that convolution's bias included.
    #[track_caller]
    pub fn resnet(&self, w: &Weights, x: Tensor, shift: Option<Tensor>, out: usize) -> Tensor {
        let h = self.norm(&w.sub("norm1"), x);
        let h = conv1(&w.sub("conv1"), h, shift, out);
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

#[track_caller]
fn conv1(w: &Weights, x: Tensor, shift: Option<Tensor>, out: usize) -> Tensor {
    let (g, conv) = (w.graph(), Conv::same(3));
    match shift {
        None => nn::conv2d(w, x, out, conv),
        // One timestep for the whole batch: its shift is a bias.
        Some(shift) if shift.dim(0) == 1 => {
            nn::conv2d_no_bias(w, x, out, conv.bias(g.reshape(shift, &[out])))
        }
        Some(shift) => {
            let y = g.to(nn::conv2d_no_bias(w, x, out, conv), DType::F32);
            g.to(g.add(y, g.reshape(shift, &[x.dim(0), 1, 1, out])), x.dtype())
        }
    }
}
