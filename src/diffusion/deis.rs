//! Zhang and Chen 2022, "Fast sampling of diffusion models with exponential integrator", of second order in log rho.
//!
//! In x / alpha and rho = sigma / alpha the equation is d(x / alpha) = eps d rho. It is solved exactly but for eps, which is taken as a
//! straight line in log rho through the last two predictions; the first step is of first order, which is DDIM's. The last point is the least
//! noise that the model knows, not the clean image.

use super::dpmpp::{solver_points, unsupported};
use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::Result;
use serde_json::{Value, json};

/// With fewer steps than this the last one is of first order.
const FEW: usize = 15;

#[derive(Debug)]
struct Deis {
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
    config.only("lower_order_final", &[json!(true)])?;
    // What other solvers have under these keys stands for this one's own, as in diffusers.
    config.only("algorithm_type", &["deis", "dpmsolver", "dpmsolver++"].map(Value::from))?;
    config.only("solver_type", &["logrho", "midpoint", "heun", "bh1", "bh2"].map(Value::from))?;
    let noise = Noise::read(config, Defaults { spacing: "linspace", ..DEFAULTS })?;
    Ok((noise, Box::new(Deis { karras })))
}

impl Sampler for Deis {
    fn points(&self, noise: &Noise, steps: usize) -> Points {
        let mut points = solver_points(noise, steps, self.karras);
        points.sigmas[steps] = noise.sigma(0.0);
        points
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, Points { timesteps, sigmas: rho, .. }) = (run.noise, run.points);
        let alpha = |rho: f64| 1.0 / rho.hypot(1.0);
        let mut before: Option<Vec<f64>> = None;
        for (i, &t) in timesteps.iter().enumerate() {
            let output = run.model(x, 1.0, t)?;
            let (now, next) = (rho[i], rho[i + 1]);
            let predict = |(x, o): (&f32, f32)| noise.predict(o, *x, alpha(now).powi(2)).1;
            let eps: Vec<f64> = x.iter().zip(output).map(predict).collect();
            let second_order = i + 1 < timesteps.len() || timesteps.len() >= FEW;
            let line = before.filter(|_| second_order).map(|before| {
                // The integral from `now` to `next` of the line that is 1 at `one` and 0 at `zero`.
                let up_to =
                    |rho: f64, one: f64, zero: f64| rho * ((rho / zero).ln() - 1.0) / (one / zero).ln();
                let share = |one, zero| up_to(next, one, zero) - up_to(now, one, zero);
                (share(now, rho[i - 1]), share(rho[i - 1], now), before)
            });
            for (j, x) in x.iter_mut().enumerate() {
                let change = match &line {
                    Some((of_now, of_before, before)) => of_now * eps[j] + of_before * before[j],
                    None => (next - now) * eps[j],
                };
                *x = (alpha(next) * (f64::from(*x) / alpha(now) + change)) as f32;
            }
            before = Some(eps);
        }
        Ok(())
    }
}
