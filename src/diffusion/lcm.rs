//! Luo et al. 2023, "Latent consistency models": the model jumps to the image in one evaluation; each further step adds fresh
//! noise and jumps again.
//!
//! f(x, t) = c_skip(t) x + c_out(t) x0, where at t = 0 the output is the input: the boundary condition of consistency models.

use super::noise::{DEFAULTS, Defaults, Noise};
use super::{Points, Run, Sampler};
use crate::data::config::Config;
use anyhow::{Result, bail};
use serde_json::json;

#[derive(Debug)]
struct Lcm {
    /// Steps of the solver that the model was distilled from.
    original_inference_steps: usize,
    timestep_scaling: f64,
}

pub fn read(config: &Config) -> Result<(Noise, Box<dyn Sampler>)> {
    config.only("thresholding", &[json!(false)])?;
    let defaults =
        Defaults { betas: (0.00085, 0.012, "scaled_linear"), clip_sample: Some(false), ..DEFAULTS };
    let noise = Noise::read(config, defaults)?;
    let lcm = Lcm {
        original_inference_steps: config.usize("original_inference_steps", 50.min(noise.len()))?,
        timestep_scaling: config.f64("timestep_scaling", 10.0)?,
    };
    if lcm.original_inference_steps > noise.len() {
        let (name, train) = (config.name(), noise.len());
        bail!("{name}: original_inference_steps is more than num_train_timesteps = {train}");
    }
    Ok((noise, Box::new(lcm)))
}

impl Sampler for Lcm {
    fn most_steps(&self, _: &Noise) -> usize {
        self.original_inference_steps
    }

    fn points(&self, noise: &Noise, steps: usize) -> Points {
        // The model knows the timesteps of the solver it was distilled from: `steps` of those.
        let known = self.original_inference_steps;
        let stride = noise.len() / known;
        Points::of_timesteps((0..steps).map(|i| ((known - i * known / steps) * stride - 1) as f64))
    }

    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()> {
        let (noise, timesteps) = (run.noise, &run.points.timesteps);
        for (i, &t) in timesteps.iter().enumerate() {
            let output = run.model(x, 1.0, t)?;
            let abar = noise.abar(t as i64);
            let scaled = self.timestep_scaling * f64::from(t);
            let skip = 0.25 / (scaled * scaled + 0.25);
            let out = scaled / (scaled * scaled + 0.25).sqrt();
            let (next, fresh) = match timesteps.get(i + 1) {
                Some(&t) => (noise.abar(t as i64), run.fresh()?),
                None => (1.0, vec![0.0; x.len()]),
            };
            for ((x, o), fresh) in x.iter_mut().zip(output).zip(fresh) {
                let (x0, _) = noise.predict(o, *x, abar);
                let jumped = out * x0 + skip * f64::from(*x);
                *x = (next.sqrt() * jumped + (1.0 - next).sqrt() * f64::from(fresh)) as f32;
            }
        }
        Ok(())
    }
}
