//! Song et al. 2020, "Denoising diffusion implicit models", with eta = 0: the model's output splits a latent into image and
//! noise, and the next latent is the same two in other shares.
//!
//! x' = sqrt(abar') x0 + sqrt(1 - abar') eps

use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::json;

#[derive(Debug)]
struct Ddim;

pub fn read(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    config.only("thresholding", &[json!(false)])?;
    let defaults = Defaults { set_alpha_to_one: Some(true), clip_sample: Some(true), ..DEFAULTS };
    Ok((Noise::read(config, defaults)?, Box::new(Ddim)))
}

impl Sampler for Ddim {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        Points::of_timesteps(noise.timesteps(steps))
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, points) = (run.noise, run.points);
        let stride = (noise.len() / run.steps) as i64;
        for &t in &points.timesteps {
            let output = run.model(x, 1.0, t)?;
            let (abar, next) = (noise.abar(t as i64), noise.abar(t as i64 - stride));
            for (x, o) in x.iter_mut().zip(output) {
                let (x0, eps) = noise.predict(o, *x, abar);
                *x = (next.sqrt() * x0 + (1.0 - next).sqrt() * eps) as f32;
            }
        }
        Ok(())
    }
}
