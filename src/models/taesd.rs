//! AutoencoderTiny: the small autoencoder by Ollin Boer Bohan (TAESD, <https://github.com/madebyollin/taesd>), which was taught to do what
//! Stable Diffusion's own does, in a fortieth of its work. Names are diffusers'.

use super::blocks::act_fn;
use super::vae::Latents;
use crate::core::{DType, Tensor, Weights};
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Conv};
use anyhow::{Result, bail};
use serde_json::json;

/// Most levels, and most blocks in one.
const MOST: usize = 16;
/// Latents are kept within this by a tangent.
const LARGEST: f32 = 3.0;

/// A tiny autoencoder as its config.json describes it.
#[derive(Clone, Debug)]
pub struct TaesdConfig {
    /// Images and latents.
    pub latents: Latents,
    act: Act,
    encoder: Stages,
    decoder: Stages,
}

/// Half of it: levels of one width, and the blocks in each.
#[derive(Clone, Debug)]
struct Stages {
    width: usize,
    blocks: Vec<usize>,
}

impl TaesdConfig {
    /// Reads a config.json.
    ///
    /// # Errors
    /// A key whose value is wrong or asks for something that is not implemented; both are named.
    pub fn new(c: &Config) -> Result<Self> {
        c.only("upsample_fn", &[json!("nearest")])?;
        c.only("upsampling_scaling_factor", &[json!(2)])?;
        let act = act_fn(c, "relu")?;
        let encoder = Stages::new(c, "encoder", &[1, 3, 3, 3])?;
        let decoder = Stages::new(c, "decoder", &[3, 3, 3, 1])?;
        if encoder.blocks.len() != decoder.blocks.len() {
            let [down, up] = [&encoder, &decoder].map(|stages| stages.blocks.len());
            bail!("{}: num_encoder_blocks has {down} levels, num_decoder_blocks {up}", c.name());
        }
        let latents = Latents::new(c, decoder.blocks.len(), 1.0)?;
        Ok(TaesdConfig { latents, act, encoder, decoder })
    }
}

impl Stages {
    fn new(c: &Config, half: &str, blocks: &[usize]) -> Result<Stages> {
        let (widths, key) = (format!("{half}_block_out_channels"), format!("num_{half}_blocks"));
        let blocks = c.usizes(&key, blocks)?;
        let widths_read = c.usizes(&widths, &[64; 4])?;
        if blocks.len() != widths_read.len() || blocks.iter().chain([&blocks.len()]).any(|&n| n > MOST) {
            bail!("{}: {key} = {blocks:?} does not fit {widths} = {widths_read:?}", c.name());
        }
        // As in diffusers, where a level gets as many channels as the one before has.
        match widths_read[..] {
            [width, ref rest @ ..] if rest.iter().all(|&other| other == width) => {
                Ok(Stages { width, blocks })
            }
            _ => Err(c.unsupported(&widths, json!(widths_read))),
        }
    }
}

/// The latents of images x (N, H, W, image_channels) in -1..1: (N, H / scale, W / scale, channels), as diffusion models have them.
#[track_caller]
pub fn encode(w: &Weights, cfg: &TaesdConfig, x: Tensor) -> Tensor {
    cfg.latents.assert_image(x);
    let (g, width) = (w.graph(), cfg.encoder.width);
    let mut layers = Layers::new(w, "encoder");
    let _scope = g.scope("encoder");
    let mut h = g.add_scalar(g.scale(x, 0.5), 0.5);
    for (i, &blocks) in cfg.encoder.blocks.iter().enumerate() {
        h = match i {
            0 => nn::activations(w, nn::conv2d(&layers.next(), h, width, Conv::same(3)), [width]),
            _ => nn::conv2d_no_bias(&layers.next(), h, width, Conv::strided(3, 2).padded([1; 4])),
        };
        for _ in 0..blocks {
            h = block(&layers.next(), cfg.act, h);
        }
    }
    g.to(nn::conv2d(&layers.next(), h, cfg.latents.channels, Conv::same(3)), DType::F32)
}

/// The images of latents z (N, h, w, channels): (N, h * scale, w * scale, image_channels), about -1..1.
#[track_caller]
pub fn decode(w: &Weights, cfg: &TaesdConfig, z: Tensor) -> Tensor {
    cfg.latents.assert_latent(z);
    let (g, width) = (w.graph(), cfg.decoder.width);
    let mut layers = Layers::new(w, "decoder");
    let _scope = g.scope("decoder");
    let z = g.scale(g.tanh(g.scale(z, 1.0 / LARGEST)), LARGEST);
    let h = nn::conv2d(&layers.next(), z, width, Conv::same(3).act(cfg.act));
    let mut h = nn::activations(w, h, [width]);
    layers.skip(); // the activation
    for (i, &blocks) in cfg.decoder.blocks.iter().enumerate() {
        for _ in 0..blocks {
            h = block(&layers.next(), cfg.act, h);
        }
        if i + 1 < cfg.decoder.blocks.len() {
            h = g.upsample_nearest(h, 2 * h.dim(1), 2 * h.dim(2));
            layers.skip(); // the upsampling
            h = nn::conv2d_no_bias(&layers.next(), h, width, Conv::same(3));
        }
    }
    let image = nn::conv2d(&layers.next(), h, cfg.latents.image_channels, Conv::same(3));
    let image = g.to(image, DType::F32);
    g.add_scalar(g.scale(image, 2.0), -1.0)
}

/// AutoencoderTinyBlock: three convolutions and what went in, then ReLU whatever the others are.
#[track_caller]
fn block(w: &Weights, act: Act, x: Tensor) -> Tensor {
    let w = w.sub("conv");
    let h = nn::conv2d(&w.sub("0"), x, x.last(), Conv::same(3).act(act));
    let h = nn::conv2d(&w.sub("2"), h, x.last(), Conv::same(3).act(act));
    w.graph().relu(nn::conv2d(&w.sub("4"), h, x.last(), Conv::same(3).plus(x)))
}

/// The layers of torch's `nn.Sequential`, which are numbered, those without weights too.
struct Layers<'g> {
    weights: Weights<'g>,
    next: usize,
}

impl<'g> Layers<'g> {
    fn new(w: &Weights<'g>, half: &str) -> Self {
        Layers { weights: w.sub(half).sub("layers"), next: 0 }
    }

    fn next(&mut self) -> Weights<'g> {
        self.skip();
        self.weights.sub(format!("{}", self.next - 1))
    }

    fn skip(&mut self) {
        self.next += 1;
    }
}
