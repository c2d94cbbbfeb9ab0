//! Noise schedules and step formulas of the diffusers schedulers: DDIM, PNDM (PLMS), Euler, Euler ancestral, DPM-Solver++
//! 2M, LCM and DDPM, for models that predict the noise (epsilon) or the velocity (v).
//!
//! Latents are a few ten thousand numbers a step, so they stay on the CPU: f32 slices, tables and formulas in f64.
//! Notation: abar(t) is the cumulative product of 1 - beta; a latent is x = sqrt(abar) x0 + sqrt(1 - abar) eps, and
//! sigma = sqrt((1 - abar) / abar) is its ratio of noise to signal.

use crate::data::config::Config;
use crate::verify::golden::Comparison;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The samplers, by the names of their diffusers classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// Song et al., "Denoising diffusion implicit models", with eta = 0.
    Ddim,
    /// Liu et al., "Pseudo numerical methods for diffusion models on manifolds", its linear multistep part.
    Pndm,
    /// Karras et al., "Elucidating the design space of diffusion models", algorithm 2 without churn.
    Euler,
    /// Euler steps that overshoot towards less noise and add fresh noise back (k-diffusion's `sample_euler_ancestral`).
    EulerAncestral,
    /// Lu et al., "DPM-Solver++", the second-order multistep form.
    DpmSolver,
    /// Luo et al., "Latent consistency models".
    Lcm,
    /// Ho et al., "Denoising diffusion probabilistic models".
    Ddpm,
}

use Method::*;

/// Names for the command line, the diffusers class of each, and whether its sigmas follow Karras et al.
const NAMES: [(&str, &str, Method, bool); 9] = [
    ("ddim", "DDIMScheduler", Ddim, false),
    ("pndm", "PNDMScheduler", Pndm, false),
    ("euler", "EulerDiscreteScheduler", Euler, false),
    ("euler-karras", "", Euler, true),
    ("euler-a", "EulerAncestralDiscreteScheduler", EulerAncestral, false),
    ("dpmpp-2m", "DPMSolverMultistepScheduler", DpmSolver, false),
    ("dpmpp-2m-karras", "", DpmSolver, true),
    ("lcm", "LCMScheduler", Lcm, false),
    ("ddpm", "DDPMScheduler", Ddpm, false),
];

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

/// A scheduler as its configuration describes it; [`Scheduler::start`] begins one sampling run with it.
#[derive(Clone, Debug)]
pub struct Scheduler {
    method: Method,
    prediction: Prediction,
    spacing: Spacing,
    karras: bool,
    /// abar(t) for each training timestep.
    alphas_cumprod: Vec<f64>,
    /// abar of the clean image, past the last timestep.
    final_alpha_cumprod: f64,
    /// Added to the timesteps of `leading` spacing. Stable Diffusion pipelines always take 1.
    pub steps_offset: usize,
    /// Clamps the predicted x0 to this range. Latents are not clipped: Stable Diffusion pipelines always take None.
    pub clip_sample: Option<f64>,
    original_inference_steps: usize,
    timestep_scaling: f64,
}

impl Scheduler {
    /// The scheduler of a `scheduler_config.json`. With a `name` (`ddim`, `euler-a`, ... or a diffusers class) it is that
    /// scheduler over the same configuration: keys in the file hold, absent ones take the defaults of the *new* class, as
    /// in diffusers' `from_config`. (So over Stable Diffusion 1.5's file DDIM spaces its steps `leading` and Euler
    /// `linspace`.) A value that is not supported is an error that names the key and the value.
    pub fn new(config: &Config, name: Option<&str>) -> Result<Scheduler> {
        let class = config.str("_class_name", None);
        let wanted = match name {
            Some(name) => name.to_string(),
            None => class?,
        };
        let Some(&(_, _, method, named_karras)) =
            NAMES.iter().find(|(n, c, ..)| *n == wanted || *c == wanted)
        else {
            if name.is_none() {
                return Err(config.unsupported("_class_name", wanted));
            }
            bail!("scheduler {wanted:?} is not known; choose one of {}", NAMES.map(|n| n.0).join(", "));
        };

        // Whatever its class has no key for, diffusers does not read either; so each method looks at its own keys only.
        config.only("trained_betas", &[Value::Null])?;
        config.only("rescale_betas_zero_snr", &[json!(false)])?;
        if matches!(method, Ddim | DpmSolver | Lcm | Ddpm) {
            config.only("thresholding", &[json!(false)])?;
        }
        if matches!(method, Euler | DpmSolver) {
            config.only("use_exponential_sigmas", &[json!(false), Value::Null])?;
            config.only("use_beta_sigmas", &[json!(false), Value::Null])?;
            config.only("final_sigmas_type", &[json!("zero")])?;
        }
        match method {
            Pndm if config.bool("skip_prk_steps", false)? => {}
            Pndm => return Err(config.unsupported("skip_prk_steps", false)),
            Euler => {
                config.only("interpolation_type", &[json!("linear")])?;
                config.only("timestep_type", &[json!("discrete")])?;
                config.only("sigma_min", &[Value::Null])?;
                config.only("sigma_max", &[Value::Null])?;
            }
            DpmSolver => {
                config.only("algorithm_type", &[json!("dpmsolver++")])?;
                config.only("solver_type", &[json!("midpoint")])?;
                config.only("solver_order", &[json!(2)])?;
                config.only("use_lu_lambdas", &[json!(false), Value::Null])?;
                config.only("use_flow_sigmas", &[json!(false), Value::Null])?;
                config.only("variance_type", &[Value::Null])?;
            }
            Ddpm => config.only("variance_type", &[json!("fixed_small")])?,
            _ => {}
        }

        let steps = config.count("num_train_timesteps", 1000, 100_000)?;
        if config.get("original_inference_steps").and_then(Value::as_u64).is_some_and(|n| n > steps as u64) {
            bail!("{}: original_inference_steps is more than num_train_timesteps = {steps}", config.name());
        }
        let clip_default = matches!(method, Ddim | Ddpm);
        let clips = matches!(method, Ddim | Lcm | Ddpm) && config.bool("clip_sample", clip_default)?;
        let (start, end, schedule) =
            if method == Lcm { (0.00085, 0.012, "scaled_linear") } else { (0.0001, 0.02, "linear") };
        let (start, end) = (config.f64("beta_start", start)?, config.f64("beta_end", end)?);
        let betas = match config.str("beta_schedule", schedule)?.as_str() {
            "linear" => linspace_f32(start, end, steps),
            "scaled_linear" => {
                linspace_f32(start.sqrt(), end.sqrt(), steps).into_iter().map(|b| b * b).collect()
            }
            other => return Err(config.unsupported("beta_schedule", other)),
        };
        if !betas.iter().all(|&b| 0.0 < b && b < 1.0) {
            bail!("{}: beta_start = {start} and beta_end = {end} must lie between 0 and 1", config.name());
        }
        // The products are rounded to f32 as torch stores them: at small t that shows in the fifth digit of sigma.
        let mut product = 1.0;
        let alphas_cumprod: Vec<f64> = betas
            .iter()
            .map(|b| {
                product *= f64::from(1.0 - b);
                f64::from(product as f32)
            })
            .collect();
        let to_one = match method {
            Ddim | Lcm => config.bool("set_alpha_to_one", true)?,
            Pndm => config.bool("set_alpha_to_one", false)?,
            _ => true,
        };
        let spacing_default =
            if matches!(method, Euler | EulerAncestral | DpmSolver) { "linspace" } else { "leading" };
        Ok(Scheduler {
            method,
            prediction: match config.str("prediction_type", "epsilon")?.as_str() {
                "epsilon" => Prediction::Epsilon,
                "v_prediction" => Prediction::Velocity,
                other => return Err(config.unsupported("prediction_type", other)),
            },
            spacing: match config.str("timestep_spacing", spacing_default)?.as_str() {
                "leading" => Spacing::Leading,
                "linspace" => Spacing::Linspace,
                "trailing" => Spacing::Trailing,
                other => return Err(config.unsupported("timestep_spacing", other)),
            },
            karras: named_karras
                || (matches!(method, Euler | DpmSolver) && config.bool("use_karras_sigmas", false)?),
            final_alpha_cumprod: if to_one { 1.0 } else { alphas_cumprod[0] },
            alphas_cumprod,
            steps_offset: config.u32("steps_offset", 0)? as usize,
            clip_sample: clips.then(|| config.positive("clip_sample_range", 1.0)).transpose()?.map(f64::from),
            original_inference_steps: config.usize("original_inference_steps", 50.min(steps))?,
            timestep_scaling: config.f64("timestep_scaling", 10.0)?,
        })
    }

    /// The name on the command line that chooses this scheduler.
    pub fn name(&self) -> &'static str {
        NAMES.iter().find(|n| n.2 == self.method && n.3 == self.karras).map_or("", |n| n.0)
    }

    /// Begins a run of `steps` steps: the timesteps and noise levels to go through. (PNDM evaluates the model once more.)
    pub fn start(&self, steps: usize) -> Result<Run<'_>> {
        let train = self.alphas_cumprod.len();
        let most = if self.method == Lcm { self.original_inference_steps.min(train) } else { train };
        if steps == 0 || steps > most {
            bail!("{steps} steps: the {} scheduler takes 1 to {most}", self.name());
        }
        let table: Vec<f64> = self.alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect();
        let mut timesteps = self.spaced(steps);
        let mut sigmas: Vec<f64> = Vec::new();
        match self.method {
            Pndm if steps > 1 => timesteps.insert(1, timesteps[1]),
            Euler | EulerAncestral | DpmSolver => {
                sigmas = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
                if self.karras {
                    // DPM-Solver++ spans the whole table and rounds the timesteps, Euler spans its own and does not.
                    let solver = self.method == DpmSolver;
                    let ends =
                        if solver { (table[train - 1], table[0]) } else { (sigmas[0], sigmas[steps - 1]) };
                    sigmas = karras_sigmas(ends.0, ends.1, steps);
                    timesteps = sigmas.iter().map(|&s| sigma_to_t(&table, s)).collect();
                    if solver {
                        timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
                    }
                }
                sigmas.push(0.0);
            }
            _ => {}
        }
        let init_noise_sigma = match self.method {
            Euler | EulerAncestral if self.spacing == Spacing::Leading => sigmas[0].hypot(1.0),
            Euler | EulerAncestral => sigmas[0],
            _ => 1.0,
        };
        Ok(Run {
            scheduler: self,
            stride: train / steps,
            timesteps: timesteps.into_iter().map(|t| t as f32).collect(),
            sigmas,
            init_noise_sigma: init_noise_sigma as f32,
            history: Vec::new(),
            first: Vec::new(),
        })
    }

    /// Timesteps from noise to image: `steps` of them spread over the training timesteps.
    fn spaced(&self, steps: usize) -> Vec<f64> {
        let train = self.alphas_cumprod.len();
        if self.method == Lcm {
            // Consistency models know the timesteps of the solver they were distilled from: take every so many of those.
            let (known, stride) = (self.original_inference_steps, train / self.original_inference_steps);
            return (0..steps).map(|i| ((known - i * known / steps) * stride - 1) as f64).collect();
        }
        // DPM-Solver++ leaves out the last of steps + 1 points; Euler evaluates between training timesteps.
        let points = if self.method == DpmSolver { steps + 1 } else { steps };
        let rounded = !matches!(self.method, Euler | EulerAncestral);
        let t = |i: usize| match self.spacing {
            Spacing::Leading => ((points - 1 - i) * (train / points) + self.steps_offset) as f64,
            Spacing::Linspace => {
                let t = (train - 1) as f64 * (points - 1 - i) as f64 / (points - 1).max(1) as f64;
                if rounded { t.round_ties_even() } else { t }
            }
            Spacing::Trailing => {
                (train as f64 - i as f64 * train as f64 / steps as f64).round_ties_even() - 1.0
            }
        };
        // With an offset and as many steps as training timesteps, `leading` would start past the end of the table.
        (0..steps).map(t).map(|t| t.min((train - 1) as f64)).collect()
    }

    /// abar(t), and past the last step abar of the clean image.
    fn alpha_cumprod(&self, t: i64) -> f64 {
        // PNDM looks back by one stride, which leads out of the table where there are as many steps as timesteps.
        let last = self.alphas_cumprod.len() - 1;
        usize::try_from(t).map_or(self.final_alpha_cumprod, |t| self.alphas_cumprod[t.min(last)])
    }

    /// What the model's `output` says of a latent `x` at noise level `abar`: (x0, eps).
    fn predict(&self, output: f32, x: f64, abar: f64) -> (f64, f64) {
        let (output, signal, noise) = (f64::from(output), abar.sqrt(), (1.0 - abar).sqrt());
        let (x0, eps) = match self.prediction {
            Prediction::Epsilon => ((x - noise * output) / signal, output),
            Prediction::Velocity => (signal * x - noise * output, signal * output + noise * x),
        };
        (self.clip_sample.map_or(x0, |range| x0.clamp(-range, range)), eps)
    }
}

/// One sampling run. For each index of `timesteps`: the model sees `scale_model_input`, [`Run::step`] takes its output.
pub struct Run<'a> {
    scheduler: &'a Scheduler,
    /// Training timesteps between two steps.
    stride: usize,
    /// What the model is told at each evaluation, from noise to image; may lie between training timesteps.
    pub timesteps: Vec<f32>,
    /// Noise levels of the sigma-based methods, and a last 0.
    sigmas: Vec<f64>,
    /// The standard deviation of the noise to start from.
    pub init_noise_sigma: f32,
    /// Multistep methods: earlier model outputs (PNDM) or x0 (DPM-Solver++), the newest last.
    history: Vec<Vec<f32>>,
    /// PNDM: the latents before the first step, which its second evaluation starts from again.
    first: Vec<f32>,
}

impl Run<'_> {
    /// The factor on the latents before the model sees them at step `i`.
    pub fn input_scale(&self, i: usize) -> f32 {
        match self.scheduler.method {
            Euler | EulerAncestral => (1.0 / self.sigmas[i].hypot(1.0)) as f32,
            _ => 1.0,
        }
    }

    /// Whether step `i` adds fresh noise, and so must be given some.
    pub fn draws_noise(&self, i: usize) -> bool {
        match self.scheduler.method {
            EulerAncestral => true,
            Lcm => i + 1 < self.timesteps.len(),
            Ddpm => self.timesteps[i] > 0.0,
            Ddim | Pndm | Euler | DpmSolver => false,
        }
    }

    /// Step `i`: moves the latents `x` one step towards the image, given the model's `output` for them and, where
    /// [`Run::draws_noise`] says so, standard normal `noise`; all three of one length. Steps are taken in order.
    pub fn step(&mut self, i: usize, output: &[f32], x: &mut [f32], noise: &[f32]) {
        let s = self.scheduler;
        let t = self.timesteps[i] as i64;
        let last = i + 1 == self.timesteps.len();
        match s.method {
            Ddim => {
                let (abar, next) = (s.alpha_cumprod(t), s.alpha_cumprod(t - self.stride as i64));
                for (x, o) in x.iter_mut().zip(output) {
                    let (x0, eps) = s.predict(*o, f64::from(*x), abar);
                    *x = (next.sqrt() * x0 + (1.0 - next).sqrt() * eps) as f32;
                }
            }
            Pndm => self.step_plms(i, output, x),
            Euler | EulerAncestral => {
                let (sigma, next) = (self.sigmas[i], self.sigmas[i + 1]);
                let abar = 1.0 / (sigma * sigma + 1.0);
                let up = match s.method {
                    Euler => 0.0,
                    _ => (next * next * (sigma * sigma - next * next)).max(0.0).sqrt() / sigma,
                };
                let down = (next * next - up * up).max(0.0).sqrt();
                for (j, (x, o)) in x.iter_mut().zip(output).enumerate() {
                    // These latents are x0 + sigma eps: sqrt(abar) brings them to the form that `predict` reads.
                    let ve = f64::from(*x);
                    let (x0, _) = s.predict(*o, ve * abar.sqrt(), abar);
                    let moved = ve + (ve - x0) / sigma * (down - sigma);
                    *x = (moved + noise.get(j).map_or(0.0, |n| up * f64::from(*n))) as f32;
                }
            }
            DpmSolver => self.step_dpm_solver(i, output, x),
            Lcm => {
                let abar = s.alpha_cumprod(t);
                let next = if last { 1.0 } else { s.alpha_cumprod(self.timesteps[i + 1] as i64) };
                // The boundary condition of consistency models: at t = 0 the output is the input.
                let scaled = s.timestep_scaling * t as f64;
                let skip = 0.25 / (scaled * scaled + 0.25);
                let out = scaled / (scaled * scaled + 0.25).sqrt();
                for (j, (x, o)) in x.iter_mut().zip(output).enumerate() {
                    let (x0, _) = s.predict(*o, f64::from(*x), abar);
                    let denoised = out * x0 + skip * f64::from(*x);
                    let fresh = if last { 0.0 } else { (1.0 - next).sqrt() * f64::from(noise[j]) };
                    *x = (next.sqrt() * denoised + fresh) as f32;
                }
            }
            Ddpm => {
                let abar = s.alpha_cumprod(t);
                let next = if last { 1.0 } else { s.alpha_cumprod(self.timesteps[i + 1] as i64) };
                let alpha = abar / next;
                let from_x0 = next.sqrt() * (1.0 - alpha) / (1.0 - abar);
                let from_x = alpha.sqrt() * (1.0 - next) / (1.0 - abar);
                let deviation =
                    if t > 0 { ((1.0 - next) / (1.0 - abar) * (1.0 - alpha)).max(1e-20).sqrt() } else { 0.0 };
                for (j, (x, o)) in x.iter_mut().zip(output).enumerate() {
                    let (x0, _) = s.predict(*o, f64::from(*x), abar);
                    let mean = from_x0 * x0 + from_x * f64::from(*x);
                    *x = (mean + noise.get(j).map_or(0.0, |n| deviation * f64::from(*n))) as f32;
                }
            }
        }
    }

    /// Pseudo linear multistep: the noise is extrapolated from up to four outputs (Adams-Bashforth), starting with a Heun
    /// step, which is the two evaluations of the first interval.
    fn step_plms(&mut self, i: usize, output: &[f32], x: &mut [f32]) {
        let s = self.scheduler;
        let (mut t, mut next) = (self.timesteps[i] as i64, self.timesteps[i] as i64 - self.stride as i64);
        if i == 1 {
            // The second evaluation was made at the end of the first interval: go over that interval again.
            (t, next) = (t + self.stride as i64, t);
        } else {
            if self.history.len() == 4 {
                self.history.remove(0);
            }
            self.history.push(output.to_vec());
        }
        if i == 0 {
            self.first = x.to_vec();
        }
        let ago = |n: usize, j: usize| f64::from(self.history[self.history.len() - 1 - n][j]);
        let (abar, next) = (s.alpha_cumprod(t), s.alpha_cumprod(next));
        let noise_factor = (next - abar) / (abar * (1.0 - next).sqrt() + (abar * (1.0 - abar) * next).sqrt());
        for j in 0..x.len() {
            let (from, mut e) = match (i, self.history.len()) {
                (0, _) => (x[j], ago(0, j)),
                (1, _) => (self.first[j], (f64::from(output[j]) + ago(0, j)) / 2.0),
                (_, 2) => (x[j], (3.0 * ago(0, j) - ago(1, j)) / 2.0),
                (_, 3) => (x[j], (23.0 * ago(0, j) - 16.0 * ago(1, j) + 5.0 * ago(2, j)) / 12.0),
                _ => {
                    let sum = 55.0 * ago(0, j) - 59.0 * ago(1, j) + 37.0 * ago(2, j) - 9.0 * ago(3, j);
                    (x[j], sum / 24.0)
                }
            };
            let from = f64::from(from);
            if s.prediction == Prediction::Velocity {
                e = abar.sqrt() * e + (1.0 - abar).sqrt() * from;
            }
            x[j] = ((next / abar).sqrt() * from - noise_factor * e) as f32;
        }
    }

    /// DPM-Solver++ 2M in its midpoint form; the first and the last step are of first order.
    fn step_dpm_solver(&mut self, i: usize, output: &[f32], x: &mut [f32]) {
        let s = self.scheduler;
        let level = |sigma: f64| {
            let alpha = 1.0 / sigma.hypot(1.0);
            // lambda is half the logarithm of the signal-to-noise ratio, infinite for the clean image.
            (alpha, alpha * sigma, -sigma.ln())
        };
        let (alpha, sigma, lambda) = level(self.sigmas[i]);
        let (alpha_next, sigma_next, lambda_next) = level(self.sigmas[i + 1]);
        let h = lambda_next - lambda;
        let second_order = i > 0 && i + 1 < self.timesteps.len();
        let r = if second_order { (lambda - level(self.sigmas[i - 1]).2) / h } else { 1.0 };
        let before = self.history.pop();
        let x0: Vec<f32> =
            x.iter().zip(output).map(|(x, o)| s.predict(*o, f64::from(*x), alpha * alpha).0 as f32).collect();
        for (j, x) in x.iter_mut().enumerate() {
            let now = f64::from(x0[j]);
            let slope = match &before {
                Some(before) if second_order => (now - f64::from(before[j])) / r,
                _ => 0.0,
            };
            let target = now + 0.5 * slope;
            *x = (sigma_next / sigma * f64::from(*x) - alpha_next * ((-h).exp() - 1.0) * target) as f32;
        }
        self.history.push(x0);
    }
}

/// `torch.linspace` in f32, which counts up from the start in its first half and down from the end in its second.
fn linspace_f32(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = if n > 1 { (end - start) / (n - 1) as f32 } else { 0.0 };
    (0..n)
        .map(|i| if i < n / 2 || n == 1 { start + step * i as f32 } else { end - step * (n - 1 - i) as f32 })
        .collect()
}

/// The table at a position between two of its entries.
fn interpolate(table: &[f64], t: f64) -> f64 {
    let low = (t as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    table[low] + (table[high] - table[low]) * (t - low as f64)
}

/// Noise levels whose 7th roots are evenly spaced (Karras et al., equation 5).
fn karras_sigmas(max: f64, min: f64, n: usize) -> Vec<f64> {
    let (max, min) = (max.powf(1.0 / 7.0), min.powf(1.0 / 7.0));
    (0..n).map(|i| (max + i as f64 / (n - 1).max(1) as f64 * (min - max)).powi(7)).collect()
}

/// The timestep, between training timesteps, whose noise level is `sigma`: the table is read in logarithms.
fn sigma_to_t(table: &[f64], sigma: f64) -> f64 {
    let low = table.partition_point(|&s| s <= sigma).saturating_sub(1).min(table.len().saturating_sub(2));
    let (a, b) = (table[low].ln(), table[(low + 1).min(table.len() - 1)].ln());
    low as f64 + ((sigma.ln() - a) / (b - a)).clamp(0.0, 1.0)
}

/// Runs one recorded trajectory of diffusers and returns the worst error of any step, relative to that step's largest
/// reference value. A record holds `scheduler` (a class), `steps`, `prediction_type`, `config` (keys beyond Stable
/// Diffusion 1.5's), `latents`, `noise` (each draw, in order), and what came of it: `timesteps`, `init_noise_sigma` and
/// `trajectory`. In place of a UNet stands eps(x, t) = 0.3 x + 0.1 sin(t / 100).
pub fn replay(name: &str, record: &Value) -> Result<f64> {
    let missing = |key: &str| format!("{name}: {key} is missing or not what a recorded trajectory holds");
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
    let config = Config::parse(name, &keys.to_string())?;
    let class = record["scheduler"].as_str().with_context(|| missing("scheduler"))?;
    let scheduler = Scheduler::new(&config, Some(class))?;
    let steps = record["steps"].as_u64().with_context(|| missing("steps"))? as usize;
    let mut run = scheduler.start(steps)?;

    let worst = |got: &[f32], want: &[f32]| Comparison::new(name, got, want, 0.0).error;
    let start = [record["init_noise_sigma"].as_f64().with_context(|| missing("init_noise_sigma"))? as f32];
    let mut error = worst(&run.timesteps, &floats(&record["timesteps"], "timesteps")?);
    error = error.max(worst(&[run.init_noise_sigma], &start));
    let trajectory = rows("trajectory")?;
    let noise = rows("noise")?;
    if trajectory.len() != run.timesteps.len() {
        return Ok(f64::INFINITY);
    }
    let mut noise = noise.iter();
    let mut x: Vec<f32> =
        floats(&record["latents"], "latents")?.iter().map(|v| v * run.init_noise_sigma).collect();
    for (i, want) in trajectory.iter().enumerate() {
        let (scale, bias) = (run.input_scale(i), 0.1 * (run.timesteps[i] / 100.0).sin());
        let output: Vec<f32> = x.iter().map(|v| 0.3 * v * scale + bias).collect();
        let fresh =
            if run.draws_noise(i) { noise.next().with_context(|| missing("noise"))? } else { &vec![] };
        if run.draws_noise(i) && fresh.len() != x.len() {
            bail!(missing("noise"));
        }
        run.step(i, &output, &mut x, fresh);
        error = error.max(worst(&x, want));
    }
    Ok(error)
}
