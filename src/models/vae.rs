//! AutoencoderKL: the image autoencoder of Stable Diffusion (Rombach et al. 2022). Names are diffusers'.

use super::blocks::Blocks;
use crate::core::{DType, Tensor, Weights};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Attention, Conv, Epilogue};
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The eps of every norm.
const EPS: f32 = 1e-6;
/// Most levels, and most blocks in one.
const MOST: usize = 16;

/// What an autoencoder stands between: images, and the latents that diffusion models work on.
#[derive(Clone, Copy, Debug)]
pub struct Latents {
    /// Channels of the images.
    pub image_channels: usize,
    /// Channels of the latents.
    pub channels: usize,
    /// Pixels of an image along one side of a pixel of its latent.
    pub scale: usize,
    /// What diffusion models call a latent is (mean - `shift_factor`) * `scaling_factor`.
    pub scaling_factor: f32,
    /// See `scaling_factor`.
    pub shift_factor: f32,
}

impl Latents {
    /// Those of a config.json, of an autoencoder with so many levels, each of half the size of the one before.
    pub(super) fn new(c: &Config, levels: usize, scaling_factor: f32) -> Result<Self> {
        let image_channels = c.usize("in_channels", 3)?;
        c.only("out_channels", &[json!(image_channels)])?;
        Ok(Latents {
            image_channels,
            channels: c.usize("latent_channels", 4)?,
            scale: 1 << (levels - 1),
            scaling_factor: c.positive("scaling_factor", scaling_factor)?,
            shift_factor: c.f32("shift_factor", 0.0)?,
        })
    }

    /// Sees that x is images that divide into latents: (N, H, W, image_channels).
    #[track_caller]
    pub(super) fn assert_image(&self, x: Tensor) {
        let Latents { image_channels, scale, .. } = self;
        assert!(
            x.rank() == 4 && x.dim(3) == *image_channels && x.dim(1) % scale == 0 && x.dim(2) % scale == 0,
            "encode of {x:?}: (N, H, W, {image_channels}), H and W multiples of {scale}"
        );
    }

    /// Sees that z is latents: (N, h, w, channels).
    #[track_caller]
    pub(super) fn assert_latent(&self, z: Tensor) {
        let c = self.channels;
        assert!(z.rank() == 4 && z.dim(3) == c, "decode of {z:?}: (N, h, w, {c})");
    }
}

/// An autoencoder as its config.json describes it.
#[derive(Clone, Debug)]
pub struct VaeConfig {
    /// Images and latents.
    pub latents: Latents,
    channels: Vec<usize>,
    layers: usize,
    blocks: Blocks,
    mid_attention: bool,
    quant_conv: bool,
    post_quant_conv: bool,
}

impl VaeConfig {
    /// Reads a config.json.
    ///
    /// # Errors
    /// A key whose value is wrong or asks for something that is not implemented; both are named.
    pub fn new(c: &Config) -> Result<Self> {
        c.only("latents_mean", &[Value::Null])?;
        c.only("latents_std", &[Value::Null])?;
        let channels = c.usizes("block_out_channels", &[64])?;
        if channels.len() > MOST {
            bail!("{}: block_out_channels has {} levels, more than {MOST}", c.name(), channels.len());
        }
        for (key, block) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            let blocks = c.strs(key, &[block])?;
            if let Some(other) = blocks.iter().find(|b| *b != block) {
                return Err(c.unsupported(key, json!(other)));
            }
            if blocks.len() != channels.len() {
                let (n, blocks) = (channels.len(), blocks.len());
                bail!("{}: block_out_channels has {n} levels, {key} {blocks}", c.name());
            }
        }
        let blocks = Blocks::new(c, EPS)?;
        if let Some(width) = channels.iter().find(|&&width| width % blocks.groups != 0) {
            let groups = blocks.groups;
            bail!("{}: norm_num_groups = {groups} does not divide {width} channels", c.name());
        }
        Ok(VaeConfig {
            latents: Latents::new(c, channels.len(), 0.18215)?,
            channels,
            layers: c.count("layers_per_block", 1, MOST)?,
            blocks,
            mid_attention: c.bool("mid_block_add_attention", true)?,
            quant_conv: c.bool("use_quant_conv", true)?,
            post_quant_conv: c.bool("use_post_quant_conv", true)?,
        })
    }
}

/// A checkpoint under today's names: files saved before 2023 call the parts of the attention query, key, value and proj_attn.
pub fn modern_names(checkpoint: Checkpoint) -> Checkpoint {
    const OLD: [(&str, &str); 4] =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    checkpoint
        .rename(|name| Some(OLD.iter().fold(name.to_string(), |name, (old, new)| name.replace(old, new))))
}

/// The distribution of the latent of images x (N, H, W, image_channels) in -1..1: mean and logarithm of the variance, each
/// (N, H / scale, W / scale, channels), before `scaling_factor`. (diffusers clamps the logarithm to -30..20 when it draws.)
#[track_caller]
pub fn encode(w: &Weights, cfg: &VaeConfig, x: Tensor) -> (Tensor, Tensor) {
    cfg.latents.assert_image(x);
    let g = w.graph();
    let moments = 2 * cfg.latents.channels;
    let last = cfg.channels.len() - 1;
    let e = w.sub("encoder");
    let _scope = g.scope("encoder");
    let h = nn::conv2d(&e.sub("conv_in"), x, cfg.channels[0], Conv::same(3));
    let mut h = nn::activations(w, h, cfg.channels.iter().copied());
    for (i, &channels) in cfg.channels.iter().enumerate() {
        let w = e.sub(format!("down_blocks.{i}"));
        let _scope = g.scope(&format!("down_blocks.{i}"));
        for j in 0..cfg.layers {
            h = cfg.blocks.resnet(&w.sub(format!("resnets.{j}")), h, None, channels);
        }
        if i < last {
            let conv = Conv::strided(3, 2).padded([0, 1, 0, 1]);
            h = nn::conv2d(&w.sub("downsamplers.0.conv"), h, channels, conv);
        }
    }
    h = mid(&e.sub("mid_block"), cfg, h);
    h = cfg.blocks.norm(&e.sub("conv_norm_out"), h);
    h = g.to(nn::conv2d(&e.sub("conv_out"), h, moments, Conv::same(3)), DType::F32);
    if cfg.quant_conv {
        h = nn::conv2d(&w.sub("quant_conv"), h, moments, Conv::same(1));
    }
    let half = cfg.latents.channels;
    (g.slice(h, 3, 0, half), g.slice(h, 3, half, half))
}

/// The images of latents z (N, h, w, channels), after division by `scaling_factor`: (N, h * scale, w * scale,
/// image_channels), about -1..1.
#[track_caller]
pub fn decode(w: &Weights, cfg: &VaeConfig, z: Tensor) -> Tensor {
    cfg.latents.assert_latent(z);
    let g = w.graph();
    let last = cfg.channels.len() - 1;
    let d = w.sub("decoder");
    let _scope = g.scope("decoder");
    let mut h = z;
    if cfg.post_quant_conv {
        h = nn::conv2d(&w.sub("post_quant_conv"), h, cfg.latents.channels, Conv::same(1));
    }
    h = nn::conv2d(&d.sub("conv_in"), h, cfg.channels[last], Conv::same(3));
    h = nn::activations(w, h, cfg.channels.iter().copied());
    h = mid(&d.sub("mid_block"), cfg, h);
    for (i, &channels) in cfg.channels.iter().rev().enumerate() {
        let w = d.sub(format!("up_blocks.{i}"));
        let _scope = g.scope(&format!("up_blocks.{i}"));
        for j in 0..=cfg.layers {
            h = cfg.blocks.resnet(&w.sub(format!("resnets.{j}")), h, None, channels);
        }
        if i < last {
            h = g.upsample_nearest(h, 2 * h.dim(1), 2 * h.dim(2));
            h = nn::conv2d(&w.sub("upsamplers.0.conv"), h, channels, Conv::same(3));
        }
    }
    h = cfg.blocks.norm(&d.sub("conv_norm_out"), h);
    g.to(nn::conv2d(&d.sub("conv_out"), h, cfg.latents.image_channels, Conv::same(3)), DType::F32)
}

/// Two residual blocks around attention.
fn mid(w: &Weights, cfg: &VaeConfig, x: Tensor) -> Tensor {
    let _scope = w.graph().scope("mid_block");
    let x = cfg.blocks.resnet(&w.sub("resnets.0"), x, None, x.last());
    let x = if cfg.mid_attention { attention(&w.sub("attentions.0"), cfg, x) } else { x };
    cfg.blocks.resnet(&w.sub("resnets.1"), x, None, x.last())
}

/// Attention among all pixels, with one head; plus x.
fn attention(w: &Weights, cfg: &VaeConfig, x: Tensor) -> Tensor {
    let (g, c) = (w.graph(), x.last());
    let h = nn::group_norm(&w.sub("group_norm"), x, cfg.blocks.groups, EPS, Act::None);
    let [q, k, v] = nn::linears(w, ["to_q", "to_k", "to_v"], h, c)
        .map(|y| g.reshape(y, &[x.dim(0), x.dim(1) * x.dim(2), 1, c]));
    let y = g.attention(q, k, v, Attention::default());
    nn::linear_with(&w.sub("to_out.0"), g.reshape(y, x.shape()), c, Epilogue::plus(x))
}
