//! How to paint: what is asked of a Stable Diffusion.

use crate::diffusion;
use crate::flags;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// How to paint: flags of `kaleid generate`, and the table `[images]` of run.toml.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Stable Diffusion 1 or 2: a folder in diffusers' layout, or one file (.safetensors, .ckpt, .gguf); `builtin` is the demo's small
    /// one.
    #[arg(long, value_name = "DIR|FILE")]
    pub model: PathBuf,
    /// Another autoencoder than the model's: its file or folder, or a folder with a `vae` in it.
    #[arg(long, value_name = "DIR|FILE")]
    pub vae: Option<PathBuf>,
    /// Another text encoder than the model's: its file or folder, or a folder with a `text_encoder` in it.
    #[arg(long, value_name = "DIR|FILE")]
    pub text_encoder: Option<PathBuf>,
    /// What the UNet predicts, where its files are wrong about it or do not say.
    #[arg(long, value_name = "KIND")]
    pub prediction_type: Option<PredictionType>,
    /// Steps of the scheduler.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub steps: usize,
    /// Classifier-free guidance (Ho and Salimans 2022): low values give more varied images, 1 is without and twice as fast.
    #[arg(long, value_name = "SCALE", default_value_t = 2.0)]
    pub guidance: f32,
    /// Name of the scheduler.
    #[arg(long, value_name = "NAME", help = scheduler_help())]
    pub scheduler: Option<String>,
    /// Size of the images: 512, or WIDTHxHEIGHT (in run.toml: [height, width]) [default: what the model was trained on].
    #[arg(long, value_name = "PIXELS", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// Images painted at once [default: as many as make half a megapixel, at most 16].
    #[arg(long, value_name = "N")]
    pub batch: Option<NonZeroUsize>,
    /// What the images should not show.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub negative: String,
}

/// What a diffusion model predicts: diffusers' `prediction_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// Noise and image in opposite shares (Salimans and Ho 2022).
    VPrediction,
    /// The image.
    Sample,
}

impl PredictionType {
    /// As configurations have it.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
        }
    }
}

impl Default for Options {
    /// With the empty path for the model, which must be given.
    fn default() -> Options {
        Options { model: PathBuf::new(), ..flags::parse(&["--model", "DIR"]) }
    }
}

fn scheduler_help() -> String {
    format!("Scheduler: {} [default: the model's own]", diffusion::names().join(", "))
}

/// "512" or "768x512" as height and width.
fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    match (height.parse(), width.parse()) {
        (Ok(height @ 1..=8192), Ok(width @ 1..=8192)) => Ok([height, width]),
        _ => Err("a size is a number like 512, or WIDTHxHEIGHT like 768x512".into()),
    }
}
