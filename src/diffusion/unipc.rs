//! Zhao et al. 2023, "UniPC: a unified predictor-corrector framework for fast sampling of diffusion models", of second order.
//!
//! Like DPM-Solver++ it solves for x0 in lambda = log(alpha / sigma). What the model says of a predicted latent corrects the step that led
//! to it, at no further evaluation, before the next is taken. With h = lambda' - lambda and B = exp(-h) - 1 (the paper's second choice, bh2):
//! x' = sigma' / sigma x - alpha' B (x0 + a (x0_before - x0) / r + c (x0' - x0)),
//! r = (lambda_before - lambda) / h; the predictor has a = 1/2 and c = 0, and the corrector's solve the conditions of its order.

use super::dpmpp::{level, solver_points, unsupported};
use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::{Value, json};

#[derive(Debug)]
struct UniPc {
    karras: bool,
}

pub fn plain(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    read(config, false)
}

pub fn karras(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    read(config, true)
}

fn read(config: &Config, karras: bool) -> Result<(Noise, Box<dyn Sampler>)> {
    unsupported(config)?;
    config.only("predict_x0", &[json!(true)])?;
    config.only("solver_p", &[Value::Null])?;
    config.only("disable_corrector", &[json!([])])?;
    config.only("rescale_betas_zero_snr", &[json!(false)])?;
    // What other solvers have under this key stands for the usual one, as in diffusers; bh1 has no last step to the clean image there.
    config.only("solver_type", &["bh2", "midpoint", "heun", "logrho"].map(Value::from))?;
    let noise = Noise::read(config, Defaults { spacing: "linspace", ..DEFAULTS })?;
    Ok((noise, Box::new(UniPc { karras })))
}

/// A step that was taken: from the latent `x` at the `from`-th level, by what was known there.
struct Taken {
    x: Vec<f32>,
    from: usize,
    /// Of first order: nothing before it was known, or nothing comes after it.
    first: bool,
}

impl Sampler for UniPc {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        solver_points(noise, steps, self.karras)
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, points) = (run.noise, run.points);
        // The last two predictions of x0, the newest last.
        let mut known: Vec<Vec<f32>> = vec![];
        let mut taken: Option<Taken> = None;
        for (i, &t) in points.timesteps.iter().enumerate() {
            let output = run.model(x, 1.0, t)?;
            let (alpha, ..) = level(points.sigmas[i]);
            let predict = |(x, o): (&f32, f32)| noise.predict(o, *x, alpha * alpha).0 as f32;
            let said: Vec<f32> = x.iter().zip(output).map(predict).collect();
            if let Some(taken) = &taken {
                self.step(&points.sigmas, taken, &known, Some(&said), x);
            }
            known.push(said);
            known.drain(..known.len().saturating_sub(2));
            let first = i == 0 || i + 1 == points.timesteps.len();
            let step = Taken { x: x.to_vec(), from: i, first };
            self.step(&points.sigmas, &step, &known, None, x);
            taken = Some(step);
        }
        Ok(())
    }
}

impl UniPc {
    /// Where a step leads, into `x`: by the predictions of x0 up to where it begins, and by the one where it `ends` if that is known.
    fn step(&self, sigmas: &[f64], taken: &Taken, known: &[Vec<f32>], ends: Option<&[f32]>, x: &mut [f32]) {
        let (_, sigma, lambda) = level(sigmas[taken.from]);
        let (alpha_next, sigma_next, lambda_next) = level(sigmas[taken.from + 1]);
        let h = lambda_next - lambda;
        let b = (-h).exp_m1();
        let now = &known[known.len() - 1];
        let before = known.len().checked_sub(2).map(|k| &known[k]).filter(|_| !taken.first);
        let r = if before.is_some() { (level(sigmas[taken.from - 1]).2 - lambda) / h } else { 1.0 };
        let (of_before, of_end) = match (before, ends) {
            (None, None) => (0.0, 0.0),
            (None, Some(_)) => (0.0, 0.5),
            (Some(_), None) => (0.5, 0.0),
            (Some(_), Some(_)) => {
                let one = b / -h - 1.0;
                let (one, two) = (one / b, 2.0 * (one / -h - 0.5) / b);
                let of_before = (one - two) / (1.0 - r);
                (of_before, one - of_before)
            }
        };
        for (j, x) in x.iter_mut().enumerate() {
            let x0 = f64::from(now[j]);
            let differs = |other: &f32| f64::from(*other) - x0;
            let back = before.map_or(0.0, |before| differs(&before[j]) / r);
            let ahead = ends.map_or(0.0, |ends| differs(&ends[j]));
            let target = x0 + of_before * back + of_end * ahead;
            *x = (sigma_next / sigma * f64::from(taken.x[j]) - alpha_next * b * target) as f32;
        }
    }
}
