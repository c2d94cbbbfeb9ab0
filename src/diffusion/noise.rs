//! The noise schedule that a model was trained with: how much noise a latent holds at each timestep, how steps are spread
//! over the timesteps, and what the model's output says of a latent.

use crate::data::config::Config;
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// What diffusers' classes differ in where a file has no such key.
pub struct Defaults {
    /// `beta_start`, `beta_end` and `beta_schedule`.
    pub betas: (f64, f64, &'static str),
    /// `timestep_spacing`.
    pub spacing: &'static str,
    /// `set_alpha_to_one`; None: the class does not read that key, and the clean image has no noise.
    pub set_alpha_to_one: Option<bool>,
    /// `clip_sample`; None: the class does not read that key, and clips nothing.
    pub clip_sample: Option<bool>,
}

/// The defaults of most classes.
pub const DEFAULTS: Defaults = Defaults {
    betas: (0.0001, 0.02, "linear"),
    spacing: "leading",
    set_alpha_to_one: None,
    clip_sample: None,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spacing {
    Leading,
    Linspace,
    Trailing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prediction {
    Epsilon,
    Velocity,
}

/// The noise schedule of a `scheduler_config.json`.
#[derive(Clone, Debug)]
pub struct Noise {
    /// abar(t) of each training timestep.
    abar: Vec<f64>,
    /// sigma(t) of each training timestep, ascending.
    sigmas: Vec<f64>,
    /// abar of the clean image, before the first timestep.
    clean: f64,
    prediction: Prediction,
    spacing: Spacing,
    /// Added to the timesteps of `leading` spacing.
    steps_offset: usize,
    /// Clamps the predicted x0 to this range.
    clip: Option<f64>,
}

impl Noise {
    /// Reads the keys that all classes share.
    ///
    /// # Errors
    /// A value that is not supported: key and value are named.
    pub fn read(config: &Config, defaults: Defaults) -> Result<Noise> {
        config.only("trained_betas", &[Value::Null])?;
        config.only("rescale_betas_zero_snr", &[json!(false)])?;
        let abar = alphas_cumprod(config, defaults.betas)?;
        let key = |key: &str, default: Option<bool>| default.map(|d| config.bool(key, d)).transpose();
        let to_one = key("set_alpha_to_one", defaults.set_alpha_to_one)?.unwrap_or(true);
        let clips = key("clip_sample", defaults.clip_sample)?.unwrap_or(false);
        Ok(Noise {
            sigmas: abar.iter().map(|a| ((1.0 - a) / a).sqrt()).collect(),
            clean: if to_one { 1.0 } else { abar[0] },
            abar,
            prediction: match config.str("prediction_type", "epsilon")?.as_str() {
                "epsilon" => Prediction::Epsilon,
                "v_prediction" => Prediction::Velocity,
                other => return Err(config.unsupported("prediction_type", other)),
            },
            spacing: match config.str("timestep_spacing", defaults.spacing)?.as_str() {
                "leading" => Spacing::Leading,
                "linspace" => Spacing::Linspace,
                "trailing" => Spacing::Trailing,
                other => return Err(config.unsupported("timestep_spacing", other)),
            },
            steps_offset: config.u32("steps_offset", 0)? as usize,
            clip: clips.then(|| config.positive("clip_sample_range", 1.0)).transpose()?.map(f64::from),
        })
    }

    /// Training timesteps.
    pub fn len(&self) -> usize {
        self.abar.len()
    }

    /// abar(t); before the first timestep, abar of the clean image.
    pub fn abar(&self, t: i64) -> f64 {
        // A method that looks back by one stride leaves the table where there are as many steps as timesteps.
        let last = self.len() - 1;
        usize::try_from(t).map_or(self.clean, |t| self.abar[t.min(last)])
    }

    /// sigma(t); between two training timesteps, the straight line from one to the other.
    pub fn sigma(&self, t: f64) -> f64 {
        let low = (t as usize).min(self.len() - 1);
        let high = (low + 1).min(self.len() - 1);
        self.sigmas[low] + (self.sigmas[high] - self.sigmas[low]) * (t - low as f64)
    }

    /// The timestep, between training timesteps, whose noise level is `sigma`: the table is read in logarithms.
    pub fn timestep(&self, sigma: f64) -> f64 {
        let (table, last) = (&self.sigmas, self.len() - 1);
        let low = table.partition_point(|&s| s <= sigma).saturating_sub(1).min(last.saturating_sub(1));
        let (a, b) = (table[low].ln(), table[(low + 1).min(last)].ln());
        low as f64 + ((sigma.ln() - a) / (b - a)).clamp(0.0, 1.0)
    }

    /// `steps` timesteps from noise to image: the first of `points` that are spread over the training timesteps as
    /// `timestep_spacing` says. Those of `linspace` may lie between training timesteps.
    pub fn spaced(&self, steps: usize, points: usize) -> Vec<f64> {
        let train = self.len();
        let t = |i: usize| match self.spacing {
            Spacing::Leading => ((points - 1 - i) * (train / points) + self.steps_offset) as f64,
            Spacing::Linspace => (train - 1) as f64 * (points - 1 - i) as f64 / (points - 1).max(1) as f64,
            Spacing::Trailing => {
                (train as f64 - i as f64 * train as f64 / steps as f64).round_ties_even() - 1.0
            }
        };
        // With an offset and as many steps as training timesteps, `leading` would start past the end of the table.
        (0..steps).map(t).map(|t| t.min((train - 1) as f64)).collect()
    }

    /// [`Noise::spaced`] of as many points as steps, rounded to training timesteps.
    pub fn timesteps(&self, steps: usize) -> impl Iterator<Item = f64> {
        self.spaced(steps, steps).into_iter().map(f64::round_ties_even)
    }

    /// Whether timesteps are spread as `leading`.
    pub fn is_leading(&self) -> bool {
        self.spacing == Spacing::Leading
    }

    /// What the model's `output` says of a latent x = sqrt(abar) x0 + sqrt(1 - abar) eps: (x0, eps).
    pub fn predict(&self, output: impl Into<f64>, x: impl Into<f64>, abar: f64) -> (f64, f64) {
        let (output, x, signal, noise) = (output.into(), x.into(), abar.sqrt(), (1.0 - abar).sqrt());
        let (x0, eps) = match self.prediction {
            Prediction::Epsilon => ((x - noise * output) / signal, output),
            Prediction::Velocity => (signal * x - noise * output, signal * output + noise * x),
        };
        (self.clip.map_or(x0, |range| x0.clamp(-range, range)), eps)
    }

    /// What the model's `output` says of x0 in a latent x = x0 + sigma eps.
    pub fn predict_x0(&self, output: f32, x: f32, sigma: f64) -> f64 {
        // sqrt(abar) brings it to the form that `predict` reads.
        let abar = 1.0 / (sigma * sigma + 1.0);
        self.predict(output, f64::from(x) * abar.sqrt(), abar).0
    }
}

/// abar(t) of each training timestep.
fn alphas_cumprod(config: &Config, (start, end, schedule): (f64, f64, &'static str)) -> Result<Vec<f64>> {
    let steps = config.count("num_train_timesteps", 1000, 100_000)?;
    let (start, end) = (config.f64("beta_start", start)?, config.f64("beta_end", end)?);
    let betas = match config.str("beta_schedule", schedule)?.as_str() {
        "linear" => linspace_f32(start, end, steps),
        "scaled_linear" => linspace_f32(start.sqrt(), end.sqrt(), steps).into_iter().map(|b| b * b).collect(),
        other => return Err(config.unsupported("beta_schedule", other)),
    };
    if !betas.iter().all(|&b| 0.0 < b && b < 1.0) {
        bail!("{}: beta_start = {start} and beta_end = {end} must lie between 0 and 1", config.name());
    }
    // The products are rounded to f32 as torch stores them: at small t that shows in the fifth digit of sigma.
    let mut product = 1.0;
    let product = betas.iter().map(|b| {
        product *= f64::from(1.0 - b);
        f64::from(product as f32)
    });
    Ok(product.collect())
}

/// `torch.linspace` in f32, which counts up from the start in its first half and down from the end in its second.
fn linspace_f32(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = if n > 1 { (end - start) / (n - 1) as f32 } else { 0.0 };
    (0..n)
        .map(|i| if i < n / 2 || n == 1 { start + step * i as f32 } else { end - step * (n - 1 - i) as f32 })
        .collect()
}

/// Noise levels whose 7th roots are evenly spaced: Karras et al. 2022, "Elucidating the design space of diffusion-based
/// generative models", equation 5.
pub fn karras_sigmas(max: f64, min: f64, n: usize) -> Vec<f64> {
    let (max, min) = (max.powf(1.0 / 7.0), min.powf(1.0 / 7.0));
    (0..n).map(|i| (max + i as f64 / (n - 1).max(1) as f64 * (min - max)).powi(7)).collect()
}
