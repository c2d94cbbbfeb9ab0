//! Lu et al. 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models", the second-order
//! multistep form (2M) with the midpoint rule; the first and the last step are of first order.
//!
//! In lambda = log(alpha / sigma), half the logarithm of the signal-to-noise ratio, the equation is solved exactly except
//! for x0, which is taken as a straight line through the last two predictions:
//! x' = sigma' / sigma x - alpha' (exp(-h) - 1) (x0 + (x0 - x0_before) / 2r),   h = lambda' - lambda,   r = h_before / h
//!
//! The stochastic form (2M SDE) takes twice the step and comes back with fresh noise:
//! x' = sigma' / sigma exp(-h) x + alpha' (1 - exp(-2h)) (x0 + (x0 - x0_before) / 2r) + sigma' sqrt(1 - exp(-2h)) noise

use super::noise::{DEFAULTS, Defaults, Noise, karras_sigmas};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::{Value, json};

#[derive(Debug)]
struct DpmSolver {
    karras: bool,
    sde: bool,
}

pub fn plain(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    read(config, DpmSolver { karras: false, sde: false })
}

pub fn karras(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    read(config, DpmSolver { karras: true, sde: false })
}

pub fn sde(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    read(config, DpmSolver { karras: false, sde: true })
}

pub fn sde_karras(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    read(config, DpmSolver { karras: true, sde: true })
}

/// Refuses what no solver in lambda does here.
pub fn unsupported(config: &Config) -> Result<()> {
    config.only("thresholding", &[json!(false)])?;
    config.only("use_exponential_sigmas", &[json!(false), Value::Null])?;
    config.only("use_beta_sigmas", &[json!(false), Value::Null])?;
    config.only("use_flow_sigmas", &[json!(false), Value::Null])?;
    config.only("final_sigmas_type", &[json!("zero")])?;
    config.only("solver_order", &[json!(2)])
}

fn read(config: &Config, solver: DpmSolver) -> Result<(Noise, Box<dyn Sampler>)> {
    unsupported(config)?;
    config.only("use_lu_lambdas", &[json!(false), Value::Null])?;
    // What other solvers have under these keys stands for this one's own, as in diffusers.
    config.only("algorithm_type", &["dpmsolver++", "sde-dpmsolver++", "deis"].map(Value::from))?;
    config.only("solver_type", &["midpoint", "logrho", "bh1", "bh2"].map(Value::from))?;
    // Only learned variances change what the model's output is.
    let fixed = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"].map(Value::from);
    config.only("variance_type", &[&[Value::Null], &fixed[..]].concat())?;
    let noise = Noise::read(config, Defaults { spacing: "linspace", ..DEFAULTS })?;
    // Timesteps of more noise than this are left out; most files say minus infinity, which Python writes as a bare word.
    let clipped = config.get("lambda_min_clipped").filter(|v| *v != "-Infinity");
    let least = -noise.sigma((noise.len() - 1) as f64).ln();
    if clipped.is_some() && config.f64("lambda_min_clipped", None)? > least {
        return Err(config.unsupported("lambda_min_clipped", clipped.cloned()));
    }
    Ok((noise, Box::new(solver)))
}

impl Sampler for DpmSolver {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        solver_points(noise, steps, self.karras)
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, Points { timesteps, sigmas, .. }) = (run.noise, run.points);
        let mut before: Option<Vec<f32>> = None;
        for (i, &t) in timesteps.iter().enumerate() {
            let output = run.model(x, 1.0, t)?;
            let (alpha, sigma, lambda) = level(sigmas[i]);
            let (alpha_next, sigma_next, lambda_next) = level(sigmas[i + 1]);
            let h = lambda_next - lambda;
            let predict = |(x, o): (&f32, f32)| noise.predict(o, *x, alpha * alpha).0 as f32;
            let x0: Vec<f32> = x.iter().zip(output).map(predict).collect();
            // Shares of the latent, of the target, and of fresh noise.
            let (keep, take, fresh) = match self.sde {
                false => (sigma_next / sigma, -(-h).exp_m1(), None),
                true => {
                    let take = -(-2.0 * h).exp_m1();
                    (sigma_next / sigma * (-h).exp(), take, Some((sigma_next * take.sqrt(), run.fresh()?)))
                }
            };
            for (j, x) in x.iter_mut().enumerate() {
                let now = f64::from(x0[j]);
                let slope = match &before {
                    Some(before) if i + 1 < timesteps.len() => {
                        let r = (lambda - level(sigmas[i - 1]).2) / h;
                        (now - f64::from(before[j])) / r
                    }
                    _ => 0.0,
                };
                let target = now + 0.5 * slope;
                let noise = fresh.as_ref().map_or(0.0, |(share, noise)| share * f64::from(noise[j]));
                *x = (keep * f64::from(*x) + alpha_next * take * target + noise) as f32;
            }
            before = Some(x0);
        }
        Ok(())
    }
}

/// alpha, sigma and lambda of a ratio of noise to signal: a latent is alpha x0 + sigma eps. lambda is infinite for the clean image.
pub fn level(ratio: f64) -> (f64, f64, f64) {
    let alpha = 1.0 / ratio.hypot(1.0);
    (alpha, alpha * ratio, -ratio.ln())
}

/// Noise levels of a solver in lambda: the last of steps + 1 points is the clean image.
pub fn solver_points(noise: &Noise, steps: usize, karras: bool) -> Points {
    let mut timesteps = noise.spaced(steps, steps + 1);
    timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
    let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| noise.sigma(t)).collect();
    if karras {
        // Unlike Euler's they span the whole table, and the timesteps are rounded.
        sigmas = karras_sigmas(noise.sigma((noise.len() - 1) as f64), noise.sigma(0.0), steps);
        timesteps = sigmas.iter().map(|&s| noise.timestep(s).round_ties_even()).collect();
    }
    sigmas.push(0.0);
    Points { sigmas, ..Points::of_timesteps(timesteps) }
}
