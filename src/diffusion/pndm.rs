//! Liu et al. 2022, "Pseudo numerical methods for diffusion models on manifolds", its linear multistep part (PLMS).
//!
//! DDIM's step, as equation 9 of the paper writes it, with a noise that is extrapolated from the last four outputs by
//! Adams-Bashforth. Where there are no earlier outputs yet, the first interval is gone over twice, as in Heun's method, and
//! the next two steps take the formulas of lower order.

use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;

#[derive(Debug)]
struct Pndm;

/// Weights of the last outputs, the newest first, and what their sum is divided by.
const ADAMS_BASHFORTH: [(&[f64], f64); 4] =
    [(&[1.0], 1.0), (&[3.0, -1.0], 2.0), (&[23.0, -16.0, 5.0], 12.0), (&[55.0, -59.0, 37.0, -9.0], 24.0)];

pub fn read(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    if !config.bool("skip_prk_steps", false)? {
        return Err(config.unsupported("skip_prk_steps", false));
    }
    let defaults = Defaults { set_alpha_to_one: Some(false), ..DEFAULTS };
    Ok((Noise::read(config, defaults)?, Box::new(Pndm)))
}

impl Sampler for Pndm {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        let mut timesteps: Vec<f64> = noise.timesteps(steps).collect();
        if steps > 1 {
            // The end of the first interval is evaluated twice.
            timesteps.insert(1, timesteps[1]);
        }
        Points::of_timesteps(timesteps)
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, timesteps) = (run.noise, &run.points.timesteps);
        let stride = (noise.len() / run.steps) as i64;
        let start = x.to_vec();
        // Outputs of earlier evaluations, the newest first.
        let mut outputs: Vec<Vec<f32>> = Vec::new();
        for (i, &t) in timesteps.iter().enumerate() {
            let output = run.model(x, 1.0, t)?;
            let t = t as i64;
            if i == 1 {
                x.copy_from_slice(&start);
                let mean = |j: usize| (f64::from(output[j]) + f64::from(outputs[0][j])) / 2.0;
                transfer(noise, [t + stride, t], x, mean);
                continue;
            }
            outputs.insert(0, output);
            outputs.truncate(4);
            let (weights, divisor) = ADAMS_BASHFORTH[outputs.len() - 1];
            let sum = |j: usize| weights.iter().zip(&outputs).map(|(w, o)| w * f64::from(o[j])).sum::<f64>();
            transfer(noise, [t, t - stride], x, |j| sum(j) / divisor);
        }
        Ok(())
    }

    /// The first of the intervals that are left is the one that is evaluated twice. (diffusers goes on as if it were, and takes one
    /// interval for another.)
    fn skip(&self, points: Points, steps: usize) -> Points {
        let mut timesteps = points.timesteps.clone();
        timesteps.dedup();
        timesteps.drain(..steps);
        if timesteps.len() > 1 {
            timesteps.insert(1, timesteps[1]);
        }
        Points { timesteps, ..points }
    }
}

/// Takes the latents `x` from one timestep to the next, by a model's `output` for each of their numbers.
fn transfer(noise: &Noise, [t, next]: [i64; 2], x: &mut [f32], output: impl Fn(usize) -> f64) {
    let (abar, next) = (noise.abar(t), noise.abar(next));
    let share = (next - abar) / (abar * (1.0 - next).sqrt() + (abar * (1.0 - abar) * next).sqrt());
    for (j, x) in x.iter_mut().enumerate() {
        let (_, eps) = noise.predict(output(j), *x, abar);
        *x = ((next / abar).sqrt() * f64::from(*x) - share * eps) as f32;
    }
}
