//! UNet2DConditionModel: the noise predictor of Stable Diffusion 1.x and 2.x (Rombach et al. 2022), in every form that its
//! config.json can ask for with residual and cross-attention blocks. Names are diffusers'.

mod config;

pub use config::UnetConfig;

use crate::core::{DType, Tensor, Weights};
use crate::nn;
use crate::ops::{Act, Attention, Conv, Epilogue};
use config::{Level, Mid};
use std::collections::HashMap;

/// The eps of the norm in front of a transformer; the blocks inside have layer norms with torch's default.
const TRANSFORMER_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;
/// What a UNet predicts from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Noisy latents (N, H, W, in_channels). Any H and W.
    pub latents: Tensor,
    /// [`UnetConfig::timestep_embedding`], (N, C0), or (1, C0) for one timestep of the whole batch, which is faster.
    pub time: Tensor,
    /// [`UnetConfig::guidance_embedding`], for models that have one.
    pub guidance: Option<Tensor>,
    /// What the transformers attend to: [`keys_and_values`] of the prompts.
    pub context: HashMap<String, Tensor>,
}

/// Predicts noise (or velocity), (N, H, W, out_channels).
#[track_caller]
pub fn unet(w: &Weights, cfg: &UnetConfig, inputs: Inputs) -> Tensor {
    let Inputs { latents: x, time, guidance, context } = inputs;
    let (g, n) = (w.graph(), x.dim(0));
    assert!(
        x.rank() == 4 && x.dim(3) == cfg.in_channels && [1, n].contains(&time.dim(0)),
        "unet of {x:?} and timesteps {time:?}: (N, H, W, {}) and (N or 1, C0)",
        cfg.in_channels
    );
    let time = time_embedding(&w.sub("time_embedding"), cfg, time, guidance);
    let net = Net { cfg, shifts: shifts(w, cfg, time), context };

    let x = if cfg.center_input_sample { g.add_scalar(g.scale(x, 2.0), -1.0) } else { x };
    let conv_in = |x| {
        let _scope = g.scope("conv_in");
        nn::conv2d(&w.sub("conv_in"), x, cfg.levels[0].channels, Conv::same(cfg.conv_in_kernel))
    };
    let mut skips = vec![g.to(conv_in(x), cfg.activations(w.dtype()))];
    net.down(w, &mut skips);
    let h = net.mid(&w.sub("mid_block"), skips[skips.len() - 1]);
    let h = net.up(w, h, skips);
    let _scope = g.scope("conv_out");
    let h = cfg.blocks.norm(&w.sub("conv_norm_out"), h);
    let y = nn::conv2d(&w.sub("conv_out"), h, cfg.out_channels, Conv::same(cfg.conv_out_kernel));
    g.to(y, DType::F32)
}

/// The embedding of the timestep, after the activation that every residual block begins with: (N or 1, C).
fn time_embedding(w: &Weights, cfg: &UnetConfig, time: Tensor, guidance: Option<Tensor>) -> Tensor {
    let _scope = w.graph().scope("time_embedding");
    let time = match guidance {
        Some(e) => w.graph().add(time, nn::linear_no_bias(&w.sub("cond_proj"), e, time.last())),
        None => time,
    };
    let act = Epilogue::act(cfg.blocks.act);
    let h = nn::linear_with(&w.sub("linear_1"), time, cfg.time_embed_dim, act);
    nn::linear_with(&w.sub("linear_2"), h, cfg.time_embed_dim, act)
}

/// The keys and values, side by side, of each attention to the context (N, T, cross_attention_dim), by its path: (N, T, 2 C). They depend
/// on the prompts alone.
#[track_caller]
pub fn keys_and_values(w: &Weights, cfg: &UnetConfig, context: Tensor) -> HashMap<String, Tensor> {
    assert_eq!(context.last(), cfg.cross_attention_dim, "context of the unet");
    let context = w.graph().to(context, cfg.activations(w.dtype()));
    let one = |(path, width): (String, usize)| {
        let w = w.sub(path);
        let part = |name: &str| (w.sub(name).name("weight"), vec![width / 2, context.last()]);
        let weight = w.stack(vec![part("to_k"), part("to_v")]);
        (w.path().to_string(), w.graph().linear(context, weight, None))
    };
    cfg.cross_attentions().into_iter().map(one).collect()
}

/// What an embedded timestep (N or 1, D) adds to the channels of each residual block, by its path, with the bias that is added there
/// anyway: (N or 1, C). One product for all.
fn shifts(w: &Weights, cfg: &UnetConfig, time: Tensor) -> HashMap<String, Tensor> {
    let g = w.graph();
    let resnets = cfg.resnets();
    let stack = |name: &str, shape: &dyn Fn(usize) -> Vec<usize>| {
        w.stack(resnets.iter().map(|(path, out)| (w.sub(path).name(name), shape(*out))).collect())
    };
    let weight = stack("time_emb_proj.weight", &|out| vec![out, time.last()]);
    let [bias, conv_bias] = ["time_emb_proj.bias", "conv1.bias"].map(|name| stack(name, &|out| vec![out]));
    let all = g.linear(time, weight, Some(bias));
    let all = g.add(all, g.reshape(conv_bias, &[1, conv_bias.len()]));
    let mut end = 0;
    let mut shift = |(path, out): (String, usize)| {
        end += out;
        (w.sub(path).path().to_string(), g.slice(all, 1, end - out, out))
    };
    resnets.iter().cloned().map(&mut shift).collect()
}

/// What all blocks see.
struct Net<'a> {
    cfg: &'a UnetConfig,
    shifts: HashMap<String, Tensor>,
    context: HashMap<String, Tensor>,
}

impl Net<'_> {
    /// The way down from `skips[0]`: appends every tensor that the way up concatenates.
    fn down(&self, w: &Weights, skips: &mut Vec<Tensor>) {
        let mut h = skips[0];
        for (i, level) in self.cfg.levels.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            let (w, _scope) = (w.sub(&name), w.graph().scope(&name));
            for j in 0..level.layers {
                h = self.resnet(&w.sub(format!("resnets.{j}")), h, level.channels);
                if level.down {
                    h = self.transformer(&w.sub(format!("attentions.{j}")), h, level);
                }
                skips.push(h);
            }
            if i + 1 < self.cfg.levels.len() {
                let conv = match self.cfg.downsample_padding {
                    0 => Conv::strided(3, 2).padded([0, 1, 0, 1]),
                    _ => Conv::strided(3, 2),
                };
                h = nn::conv2d(&w.sub("downsamplers.0.conv"), h, level.channels, conv);
                skips.push(h);
            }
        }
    }

    /// The middle, at the smallest size.
    fn mid(&self, w: &Weights, h: Tensor) -> Tensor {
        let level = &self.cfg.levels[self.cfg.levels.len() - 1];
        let _scope = w.graph().scope("mid_block");
        let resnet = |name: &str, h| self.resnet(&w.sub(name), h, level.channels);
        match self.cfg.mid {
            Mid::None => h,
            Mid::Resnet => resnet("resnets.0", h),
            Mid::CrossAttention => {
                let h = self.transformer(&w.sub("attentions.0"), resnet("resnets.0", h), level);
                resnet("resnets.1", h)
            }
        }
    }

    /// The way up, with what was put aside on the way down.
    fn up(&self, w: &Weights, mut h: Tensor, mut skips: Vec<Tensor>) -> Tensor {
        let g = w.graph();
        for (i, level) in self.cfg.levels.iter().rev().enumerate() {
            let name = format!("up_blocks.{i}");
            let (w, _scope) = (w.sub(&name), g.scope(&name));
            for j in 0..=level.layers {
                let skip = skips.pop().expect("as many on the way up as down");
                h = self.resnet(&w.sub(format!("resnets.{j}")), g.concat(&[h, skip], 3), level.channels);
                if level.up {
                    h = self.transformer(&w.sub(format!("attentions.{j}")), h, level);
                }
            }
            // To the size of the next skip, which is not twice as large where a size was odd on the way down.
            if let Some(skip) = skips.last() {
                h = g.upsample_nearest(h, skip.dim(1), skip.dim(2));
                h = nn::conv2d(&w.sub("upsamplers.0.conv"), h, level.channels, Conv::same(3));
            }
        }
        h
    }

    fn resnet(&self, w: &Weights, x: Tensor, out: usize) -> Tensor {
        self.cfg.blocks.resnet(w, x, Some(self.shifts[w.path()]), out)
    }

    /// Transformer2DModel over the pixels: (N, H, W, C) -> (N, H, W, C).
    fn transformer(&self, w: &Weights, x: Tensor, level: &Level) -> Tensor {
        let (g, c) = (w.graph(), level.channels);
        let project = |name: &str, h: Tensor, epilogue: Epilogue| match self.cfg.linear_projection {
            true => nn::linear_with(&w.sub(name), h, c, epilogue),
            false => nn::conv2d(&w.sub(name), h, c, Conv { epilogue, ..Conv::same(1) }),
        };
        let h = nn::group_norm(&w.sub("norm"), x, self.cfg.blocks.groups, TRANSFORMER_EPS, Act::None);
        let h = project("proj_in", h, Epilogue::default());
        let mut h = g.reshape(h, &[x.dim(0), x.dim(1) * x.dim(2), c]);
        for i in 0..level.depth {
            h = self.transformer_block(&w.sub(format!("transformer_blocks.{i}")), h, level.heads);
        }
        project("proj_out", g.reshape(h, x.shape()), Epilogue::plus(x))
    }

    /// BasicTransformerBlock: attention among the pixels, attention to the context, a gated feed-forward layer.
    fn transformer_block(&self, w: &Weights, x: Tensor, heads: usize) -> Tensor {
        let norm = |name: &str, x| nn::layer_norm(&w.sub(name), x, LAYER_NORM_EPS);
        let (c, first, second) = (x.last(), w.sub("attn1"), w.sub("attn2"));
        let of_itself = nn::linears_no_bias(&first, ["to_q", "to_k", "to_v"], norm("norm1", x), c);
        let x = attention(&first, of_itself, heads, x);
        let q = nn::linear_no_bias(&second.sub("to_q"), norm("norm2", x), c);
        let context = self.context[second.path()];
        let [k, v] = [0, c].map(|first| w.graph().slice(context, 2, first, c));
        let x = attention(&second, [q, k, v], heads, x);
        let h = nn::linear(&w.sub("ff.net.0.proj"), norm("norm3", x), 8 * x.last());
        nn::linear_with(&w.sub("ff.net.2"), w.graph().geglu(h), x.last(), Epilogue::plus(x))
    }
}

/// What queries (B, T, C) find among keys and values (B, Tk, C); plus `residual`.
fn attention(w: &Weights, parts: [Tensor; 3], heads: usize, residual: Tensor) -> Tensor {
    let (g, c) = (w.graph(), residual.last());
    let [q, k, v] = parts.map(|x| g.reshape(x, &[x.dim(0), x.dim(1), heads, c / heads]));
    let y = g.reshape(g.attention(q, k, v, Attention::default()), residual.shape());
    nn::linear_with(&w.sub("to_out.0"), y, c, Epilogue::plus(residual))
}
