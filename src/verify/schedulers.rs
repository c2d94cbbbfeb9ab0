//! Trajectories of diffusers' schedulers, replayed.

use super::golden::Comparison;
use crate::data::config::Config;
use crate::diffusion::Scheduler;
use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

/// One recorded run of a scheduler, with eps(x, t) = 0.3 x + 0.1 sin(t / 100) in place of a UNet.
struct Record {
    scheduler: Scheduler,
    steps: usize,
    /// Of a run from an image, whose first noise covers that.
    strength: Option<f32>,
    timesteps: Vec<f32>,
    init_noise_sigma: f32,
    /// Standard normal; the run starts from these times `init_noise_sigma`.
    latents: Vec<f32>,
    /// Each draw of fresh noise, in order.
    noise: Vec<Vec<f32>>,
    /// The latents after each evaluation.
    trajectory: Vec<Vec<f32>>,
}

impl Record {
    /// Reads `scheduler` (a class), `steps`, `prediction_type`, `config` (keys beyond Stable Diffusion 1.5's), and the fields
    /// above.
    fn read(name: &str, record: &Value) -> Result<Record> {
        let missing = |key: &str| format!("{name}: {key} is missing or not what a recorded trajectory holds");
        let number = |key: &str| record[key].as_f64().with_context(|| missing(key));
        let floats = |value: &Value, key: &str| -> Result<Vec<f32>> {
            let list = value.as_array().with_context(|| missing(key))?;
            list.iter().map(|v| v.as_f64().map(|f| f as f32).with_context(|| missing(key))).collect()
        };
        let rows = |key: &str| -> Result<Vec<Vec<f32>>> {
            record[key].as_array().with_context(|| missing(key))?.iter().map(|row| floats(row, key)).collect()
        };
        let mut keys = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000, "steps_offset": 1, "prediction_type": record["prediction_type"] });
        for (key, value) in record["config"].as_object().with_context(|| missing("config"))? {
            keys[key] = value.clone();
        }
        let class = record["scheduler"].as_str().with_context(|| missing("scheduler"))?;
        Ok(Record {
            scheduler: Scheduler::new(&Config::parse(name, &keys.to_string())?, Some(class))?,
            steps: record["steps"].as_u64().with_context(|| missing("steps"))? as usize,
            strength: record["strength"].as_f64().map(|strength| strength as f32),
            timesteps: floats(&record["timesteps"], "timesteps")?,
            init_noise_sigma: number("init_noise_sigma")? as f32,
            latents: floats(&record["latents"], "latents")?,
            noise: rows("noise")?,
            trajectory: rows("trajectory")?,
        })
    }
}

/// Replays one recorded trajectory and returns the worst error of any step, relative to that step's largest reference value.
///
/// # Errors
/// A record that lacks something, or asks for what the scheduler cannot do.
pub fn replay(name: &str, record: &Value) -> Result<f64> {
    let record = Record::read(name, record)?;
    let worst = |got: &[f32], want: &[f32]| Comparison::new(name, got, want, 0.0).error;
    let points = match record.strength {
        Some(strength) => record.scheduler.points_from(record.steps, strength)?,
        None => record.scheduler.points(record.steps)?,
    };
    let mut error = worst(&points.timesteps, &record.timesteps);
    error = error.max(worst(&[points.init_noise_sigma], &[record.init_noise_sigma]));
    if record.trajectory.len() != points.timesteps.len() {
        return Ok(f64::INFINITY);
    }

    let mut x = record.latents.clone();
    let mut seen: Vec<Vec<f32>> = Vec::new();
    let model = |x: &[f32], scale: f32, t: f32| {
        seen.push(x.to_vec());
        Ok(x.iter().map(|v| 0.3 * v * scale + 0.1 * (t / 100.0).sin()).collect())
    };
    let mut noise = record.noise.iter().filter(|draw| draw.len() == record.latents.len()).cloned();
    let mut fresh = || noise.next().ok_or_else(|| anyhow!("{name}: noise is missing or of another length"));
    match record.strength {
        Some(strength) => {
            let covering = fresh()?;
            record.scheduler.sample_from((record.steps, strength), &mut x, &covering, model, fresh)?;
        }
        None => record.scheduler.sample(record.steps, &mut x, model, fresh)?,
    }
    seen.push(x);
    Ok(seen[1..].iter().zip(&record.trajectory).map(|(got, want)| worst(got, want)).fold(error, f64::max))
}
