//! Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", algorithm 1 in sigma: Heun's
//! method, of second order. An Euler step to the next noise level, the slope there, and the step again with the mean of the
//! two slopes. The last step, to the clean image, is Euler's: there is no slope at sigma = 0.

use super::euler;
use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::json;

#[derive(Debug)]
struct Heun;

pub fn read(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    config.only("use_karras_sigmas", &[json!(false)])?;
    config.only("use_exponential_sigmas", &[json!(false)])?;
    config.only("use_beta_sigmas", &[json!(false)])?;
    let betas = (0.00085, 0.012, "linear");
    let defaults = Defaults { betas, spacing: "linspace", clip_sample: Some(false), ..DEFAULTS };
    Ok((Noise::read(config, defaults)?, Box::new(Heun)))
}

impl Sampler for Heun {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        let mut points = euler::points(noise, steps, false);
        // Every timestep but the first is evaluated at the end of one step and at the start of the next.
        points.timesteps = points.timesteps.iter().flat_map(|&t| [t, t]).skip(1).collect();
        points
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, Points { timesteps, sigmas, .. }) = (run.noise, run.points);
        // dx/dsigma = (x - x0) / sigma
        let mut slopes = |x: &[f32], sigma: f64, t: f32| -> Result<Vec<f64>> {
            let output = run.model(x, (1.0 / sigma.hypot(1.0)) as f32, t)?;
            let slope = |(x, o): (&f32, f32)| (f64::from(*x) - noise.predict_x0(o, *x, sigma)) / sigma;
            Ok(x.iter().zip(output).map(slope).collect())
        };
        for (i, level) in sigmas.windows(2).enumerate() {
            let (sigma, next) = (level[0], level[1]);
            let start = x.to_vec();
            let mut slope = slopes(x, sigma, timesteps[2 * i])?;
            move_by(x, &start, &slope, next - sigma);
            if next > 0.0 {
                let after = slopes(x, next, timesteps[2 * i + 1])?;
                slope.iter_mut().zip(after).for_each(|(s, after)| *s = (*s + after) / 2.0);
                move_by(x, &start, &slope, next - sigma);
            }
        }
        Ok(())
    }

    fn shares(&self, _: &Noise, points: &Points) -> [f64; 2] {
        [1.0, points.sigmas[0]]
    }

    fn skip(&self, points: Points, steps: usize) -> Points {
        // Two evaluations a step, of which the first timestep has one.
        Points {
            timesteps: points.timesteps[2 * steps..].to_vec(),
            sigmas: points.sigmas[steps..].to_vec(),
            ..points
        }
    }
}

/// x = start + slope h
fn move_by(x: &mut [f32], start: &[f32], slope: &[f64], h: f64) {
    for ((x, start), slope) in x.iter_mut().zip(start).zip(slope) {
        *x = (f64::from(*start) + slope * h) as f32;
    }
}
