//! Stable Diffusion as its files describe it: its configurations, and what its parts record.

use super::options::Options;
use super::parts::Parts;
use crate::core::{DType, Graph, Tensor, Weights};
use crate::data::folder::{Embedded, Folder};
use crate::diffusion::Scheduler;
use crate::models::autoencoder::Autoencoder;
use crate::models::clip::{TextConfig, text_model};
use crate::models::unet::{self, UnetConfig};
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::HashMap;

/// The UNet of Stable Diffusion 1.5.
pub const SD15_UNET: &str =
    r#"{"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768}"#;
/// Its autoencoder.
pub const SD15_VAE: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
const SD15_TEXT: &str = r#"{"architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072,
    "num_attention_heads": 12, "num_hidden_layers": 12}"#;

/// Stable Diffusion 1.5 without weights: to count and compile what it records.
pub const SD15: Embedded = &[
    ("unet/config.json", SD15_UNET.as_bytes()),
    ("vae/config.json", SD15_VAE.as_bytes()),
    ("text_encoder/config.json", SD15_TEXT.as_bytes()),
    ("scheduler/scheduler_config.json", br#"{"_class_name": "PNDMScheduler"}"#),
];

/// A Stable Diffusion: its configurations are read, its weights not yet.
#[derive(Clone)]
pub struct Model {
    pub(super) parts: Parts,
    pub(super) text: TextConfig,
    pub(super) unet: UnetConfig,
    pub(super) vae: Autoencoder,
}

/// How much is painted at once.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Height and width of the images.
    pub size: [usize; 2],
    /// Images that go through the UNet together.
    pub batch: usize,
    /// Images that are decoded together.
    pub vae_batch: usize,
    /// The UNet sees each latent twice: with the prompt, and with the negative prompt.
    pub guided: bool,
    /// How often the text encoder reads for one prompt, for prompts that are longer than it takes.
    pub chunks: usize,
}

impl Work {
    /// Latents that a step of the UNet sees.
    fn rows(&self) -> usize {
        if self.guided { 2 * self.batch } else { self.batch }
    }
}

impl Model {
    /// Opens a folder with `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`, or one file, with what `options` name instead of
    /// its parts.
    ///
    /// # Errors
    /// A file that is missing, broken, or of another model; a configuration that is not supported.
    pub fn open(model: &Folder, options: &Options) -> Result<Model> {
        Model::new(Parts::open(model, options)?)
    }

    /// The model that the configurations in a folder describe, whatever else it lacks.
    ///
    /// # Errors
    /// A file that is missing or broken; a configuration that is not supported.
    pub fn configured(folder: &Folder) -> Result<Model> {
        Model::new(Parts::of_folder(folder)?)
    }

    fn new(parts: Parts) -> Result<Model> {
        let config = &parts.unet.config;
        config.only("_class_name", &[json!("UNet2DConditionModel")])?;
        let unet = UnetConfig::new(config)?;
        let vae = Autoencoder::new(&parts.vae.config)?;
        let latents = vae.latents();
        for (key, channels) in [("in_channels", unet.in_channels), ("out_channels", unet.out_channels)] {
            if channels != latents.channels {
                return Err(config.unsupported(key, channels));
            }
        }
        if latents.image_channels != 3 {
            let (name, channels) = (parts.vae.config.name(), latents.image_channels);
            bail!("{name}: the autoencoder's images have {channels} channels, expected 3");
        }
        let text = TextConfig::new(&parts.text.config)?;
        if text.hidden_size() != unet.cross_attention_dim {
            let (wanted, width) = (unet.cross_attention_dim, text.hidden_size());
            bail!("{}: cross_attention_dim = {wanted}, but the text encoder is {width} wide", config.name());
        }
        Ok(Model { parts, text, unet, vae })
    }

    /// What is to be said of what was merged into it.
    pub fn remarks(&self) -> &[String] {
        &self.parts.remarks
    }

    /// What its UNet predicts, as configurations have it.
    pub fn prediction_type(&self) -> String {
        self.parts.scheduler.str("prediction_type", "epsilon").unwrap_or_default()
    }

    /// The scheduler of this name, or the model's own.
    ///
    /// # Errors
    /// A name that is not known; a configuration that is not supported.
    pub fn scheduler(&self, name: Option<&str>) -> Result<Scheduler> {
        Scheduler::for_stable_diffusion(&self.parts.scheduler, name)
    }

    /// Height and width of images: as asked for, or what the model was trained on.
    ///
    /// # Errors
    /// A size that no latent fits.
    pub fn size(&self, wanted: Option<[usize; 2]>) -> Result<[usize; 2]> {
        let scale = self.vae.latents().scale;
        let size = wanted.unwrap_or(self.unet.sample_size.unwrap_or([64, 64]).map(|s| s * scale));
        let [height, width] = size;
        if size.iter().any(|&s| s == 0 || s % scale != 0) {
            bail!("size {width}x{height}: width and height must be multiples of {scale}");
        }
        Ok(size)
    }

    /// Records the text encoder for one prompt: `tokens` -> `context`.
    pub fn record_text(&self, w: &Weights) {
        record_text(w, &self.text);
    }

    /// Records what a batch's steps share: the `context` of the prompts -> keys and values, under the paths of the attentions to it.
    pub fn record_context(&self, w: &Weights, work: Work) {
        let shape = [work.rows(), work.chunks * self.text.positions, self.text.hidden_size()];
        let context = w.graph().input("context", &shape, DType::F32);
        for (path, t) in unet::keys_and_values(w, &self.unet, context) {
            w.graph().output(&path, t);
        }
    }

    /// Records a step of the UNet: `latents`, `time`, what [`Model::record_context`] makes and, for models that have it, `guidance` ->
    /// `out`.
    pub fn record_unet(&self, w: &Weights, work: Work) {
        let input = |name: &str, shape: &[usize]| w.graph().input(name, shape, DType::F32);
        let x = input("latents", &self.latents(work.size, work.batch));
        let x = if work.guided { w.graph().concat(&[x, x], 0) } else { x };
        let inputs = unet::Inputs {
            latents: x,
            time: input("time", &[1, self.unet.timestep_width()]),
            guidance: self.unet.time_cond_proj_dim.map(|width| input("guidance", &[1, width])),
            context: self.context(w.graph(), self.unet.activations(w.dtype()), work),
        };
        w.graph().output("out", unet::unet(w, &self.unet, inputs));
    }

    /// Records the autoencoder's second half: `latents` -> `image`.
    pub fn record_vae(&self, w: &Weights, work: Work) {
        let z = w.graph().input("latents", &self.latents(work.size, work.vae_batch), DType::F32);
        w.graph().output("image", self.vae.decode(w, z));
    }

    /// Records the autoencoder's first half for one image: `image` -> `mean` and, of most, `logvar`.
    pub fn record_encoder(&self, w: &Weights, work: Work) {
        let [height, width] = work.size;
        let image = w.graph().input("image", &[1, height, width, 3], DType::F32);
        let (mean, logvar) = self.vae.encode(w, image);
        w.graph().output("mean", mean);
        logvar.into_iter().for_each(|logvar| w.graph().output("logvar", logvar));
    }

    /// What [`Model::record_context`] makes, as inputs.
    fn context(&self, g: &Graph, dtype: DType, work: Work) -> HashMap<String, Tensor> {
        let one = |(path, width): (String, usize)| {
            let shape = [work.rows(), work.chunks * self.text.positions, width];
            let t = g.input(&path, &shape, dtype);
            (path, t)
        };
        self.unet.cross_attentions().into_iter().map(one).collect()
    }

    /// (N, h, w, channels) of latents.
    fn latents(&self, size: [usize; 2], n: usize) -> [usize; 4] {
        let [h, w] = size.map(|s| s / self.vae.latents().scale);
        [n, h, w, self.vae.latents().channels]
    }
}

/// Records the text encoder for one prompt: `tokens` -> `context`.
pub(super) fn record_text(w: &Weights, config: &TextConfig) {
    let shape = [1, config.positions, config.hidden_size()];
    let tokens = w.graph().input("tokens", &shape, DType::F32);
    w.graph().output("context", text_model(w, config, tokens));
}
