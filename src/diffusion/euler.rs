//! Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", algorithm 2 without churn and
//! without its correction: Euler steps along dx/dsigma = (x - x0) / sigma.
//!
//! The ancestral form (k-diffusion's `sample_euler_ancestral`) steps further down than the next noise level and comes back
//! to it with fresh noise: next^2 = down^2 + up^2.

use super::noise::{DEFAULTS, Defaults, Noise, karras_sigmas};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::{Value, json};

#[derive(Debug)]
struct Euler {
    karras: bool,
    ancestral: bool,
}

const LINSPACE: Defaults = Defaults { spacing: "linspace", ..DEFAULTS };

pub fn plain(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    discrete(config, false)
}

pub fn karras(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    discrete(config, true)
}

pub fn ancestral(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    Ok((Noise::read(config, LINSPACE)?, Box::new(Euler { karras: false, ancestral: true })))
}

fn discrete(config: &Config, karras: bool) -> Result<(Noise, Box<dyn Sampler>)> {
    config.only("use_exponential_sigmas", &[json!(false), Value::Null])?;
    config.only("use_beta_sigmas", &[json!(false), Value::Null])?;
    config.only("final_sigmas_type", &[json!("zero")])?;
    config.only("interpolation_type", &[json!("linear")])?;
    config.only("timestep_type", &[json!("discrete")])?;
    config.only("sigma_min", &[Value::Null])?;
    config.only("sigma_max", &[Value::Null])?;
    Ok((Noise::read(config, LINSPACE)?, Box::new(Euler { karras, ancestral: false })))
}

impl Sampler for Euler {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        points(noise, steps, self.karras)
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, points) = (run.noise, run.points);
        for (i, &t) in points.timesteps.iter().enumerate() {
            let (sigma, next) = (points.sigmas[i], points.sigmas[i + 1]);
            let output = run.model(x, (1.0 / sigma.hypot(1.0)) as f32, t)?;
            let (up, fresh) = if self.ancestral {
                let up = (next * next * (sigma * sigma - next * next)).max(0.0).sqrt() / sigma;
                (up, run.fresh()?)
            } else {
                (0.0, vec![0.0; x.len()])
            };
            let down = (next * next - up * up).max(0.0).sqrt();
            for ((x, o), fresh) in x.iter_mut().zip(output).zip(fresh) {
                let (from, x0) = (f64::from(*x), noise.predict_x0(o, *x, sigma));
                let moved = from + (from - x0) / sigma * (down - sigma);
                *x = (moved + up * f64::from(fresh)) as f32;
            }
        }
        Ok(())
    }

    fn shares(&self, _: &Noise, points: &Points) -> [f64; 2] {
        [1.0, points.sigmas[0]]
    }
}

/// Noise levels of as many timesteps as steps; `karras` keeps their ends, and spaces what lies between by equation 5.
pub fn points(noise: &Noise, steps: usize, karras: bool) -> Points {
    let mut timesteps = noise.spaced(steps, steps);
    let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| noise.sigma(t)).collect();
    if karras {
        sigmas = karras_sigmas(sigmas[0], sigmas[steps - 1], steps);
        timesteps = sigmas.iter().map(|&s| noise.timestep(s)).collect();
    }
    let start = if noise.is_leading() { sigmas[0].hypot(1.0) } else { sigmas[0] };
    sigmas.push(0.0);
    Points { sigmas, init_noise_sigma: start as f32, ..Points::of_timesteps(timesteps) }
}
