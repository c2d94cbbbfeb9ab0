//! The autoencoder in a Stable Diffusion folder, of whichever kind.

use super::taesd::{self, TaesdConfig};
use super::vae::{self, Latents, VaeConfig};
use crate::core::{Tensor, Weights};
use crate::data::config::Config;
use anyhow::Result;

/// What `vae/config.json` describes.
#[derive(Clone, Debug)]
pub enum Autoencoder {
    /// AutoencoderKL: Stable Diffusion's own.
    Kl(VaeConfig),
    /// AutoencoderTiny.
    Tiny(TaesdConfig),
}

impl Autoencoder {
    /// Reads a config.json.
    ///
    /// # Errors
    /// Another class, or a configuration that is not supported.
    pub fn new(c: &Config) -> Result<Autoencoder> {
        match c.str("_class_name", "AutoencoderKL")?.as_str() {
            "AutoencoderKL" => Ok(Autoencoder::Kl(VaeConfig::new(c)?)),
            "AutoencoderTiny" => Ok(Autoencoder::Tiny(TaesdConfig::new(c)?)),
            other => Err(c.unsupported("_class_name", other)),
        }
    }

    /// Its images and latents.
    pub fn latents(&self) -> Latents {
        match self {
            Autoencoder::Kl(cfg) => cfg.latents,
            Autoencoder::Tiny(cfg) => cfg.latents,
        }
    }

    /// Mean and logarithm of the variance of the latents of images x (N, H, W, image_channels) in -1..1, before `scaling_factor` and
    /// `shift_factor`; AutoencoderTiny says no variance.
    #[track_caller]
    pub fn encode(&self, w: &Weights, x: Tensor) -> (Tensor, Option<Tensor>) {
        match self {
            Autoencoder::Kl(cfg) => {
                let (mean, logvar) = vae::encode(w, cfg, x);
                (mean, Some(logvar))
            }
            Autoencoder::Tiny(cfg) => (taesd::encode(w, cfg, x), None),
        }
    }

    /// The images of latents z (N, h, w, channels), once `scaling_factor` and `shift_factor` are undone: (N, h * scale, w * scale,
    /// image_channels), about -1..1.
    #[track_caller]
    pub fn decode(&self, w: &Weights, z: Tensor) -> Tensor {
        match self {
            Autoencoder::Kl(cfg) => vae::decode(w, cfg, z),
            Autoencoder::Tiny(cfg) => taesd::decode(w, cfg, z),
        }
    }
}
