//! Ho et al. 2020, "Denoising diffusion probabilistic models": a draw from the posterior q(x' | x, x0), equations 6 and 7.

use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::json;

#[derive(Debug)]
struct Ddpm;

pub fn read(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    config.only("thresholding", &[json!(false)])?;
    config.only("variance_type", &[json!("fixed_small")])?;
    let defaults = Defaults { clip_sample: Some(true), ..DEFAULTS };
    Ok((Noise::read(config, defaults)?, Box::new(Ddpm)))
}

impl Sampler for Ddpm {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        Points::of_timesteps(noise.timesteps(steps))
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, timesteps) = (run.noise, &run.points.timesteps);
        for (i, &t) in timesteps.iter().enumerate() {
            let output = run.model(x, 1.0, t)?;
            let abar = noise.abar(t as i64);
            let next = timesteps.get(i + 1).map_or(1.0, |&t| noise.abar(t as i64));
            let alpha = abar / next;
            let from_x0 = next.sqrt() * (1.0 - alpha) / (1.0 - abar);
            let from_x = alpha.sqrt() * (1.0 - next) / (1.0 - abar);
            let (deviation, fresh) = if t > 0.0 {
                (((1.0 - next) / (1.0 - abar) * (1.0 - alpha)).max(1e-20).sqrt(), run.fresh()?)
            } else {
                (0.0, vec![0.0; x.len()])
            };
            for ((x, o), fresh) in x.iter_mut().zip(output).zip(fresh) {
                let (x0, _) = noise.predict(o, *x, abar);
                let mean = from_x0 * x0 + from_x * f64::from(*x);
                *x = (mean + deviation * f64::from(fresh)) as f32;
            }
        }
        Ok(())
    }
}
