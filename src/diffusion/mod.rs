//! Samplers of diffusion models: from noise to an image in a few dozen evaluations of a model.
//!
//! noise.rs is what all of them share, the noise schedule that a model was trained with. Every other file is one method:
//! its paper, the keys it reads, the timesteps it visits, and its loop. Notation: abar(t) is the cumulative product of
//! 1 - beta; a latent is x = sqrt(abar) x0 + sqrt(1 - abar) eps; sigma = sqrt((1 - abar) / abar) is its ratio of noise to
//! signal. Latents are a few ten thousand numbers, so they stay on the CPU: f32 slices, tables and formulas in f64.
//!
//! A new sampler is a file, a row of `SAMPLERS`, and a recording of diffusers (a row of `schedulers` in tests/golden/make.py).

mod ddim;
mod ddpm;
mod deis;
mod dpmpp;
mod euler;
mod heun;
mod lcm;
mod noise;
mod pndm;
mod unipc;

use crate::data::config::Config;
use anyhow::{Result, bail};
use noise::Noise;

/// Reads what a class's configuration says: the noise schedule, and the sampler with its settings.
type Read = fn(&Config) -> Result<(Noise, Box<dyn Sampler>)>;

/// Every sampler: its name on the command line, the class of diffusers, and what reads its configuration. A class comes
/// first under its plain name; `NAME-karras` is the same with `use_karras_sigmas`.
const SAMPLERS: &[(&str, &str, Read)] = &[
    ("ddim", "DDIMScheduler", ddim::read),
    ("pndm", "PNDMScheduler", pndm::read),
    ("euler", "EulerDiscreteScheduler", euler::plain),
    ("euler-karras", "EulerDiscreteScheduler", euler::karras),
    ("euler-a", "EulerAncestralDiscreteScheduler", euler::ancestral),
    ("heun", "HeunDiscreteScheduler", heun::read),
    ("dpmpp-2m", "DPMSolverMultistepScheduler", dpmpp::plain),
    ("dpmpp-2m-karras", "DPMSolverMultistepScheduler", dpmpp::karras),
    ("dpmpp-2m-sde", "DPMSolverMultistepScheduler", dpmpp::sde),
    ("dpmpp-2m-sde-karras", "DPMSolverMultistepScheduler", dpmpp::sde_karras),
    ("unipc", "UniPCMultistepScheduler", unipc::plain),
    ("unipc-karras", "UniPCMultistepScheduler", unipc::karras),
    ("deis", "DEISMultistepScheduler", deis::plain),
    ("deis-karras", "DEISMultistepScheduler", deis::karras),
    ("lcm", "LCMScheduler", lcm::read),
    ("ddpm", "DDPMScheduler", ddpm::read),
];

/// The names that [`Scheduler::new`] knows, beside the classes of diffusers.
pub fn names() -> Vec<&'static str> {
    SAMPLERS.iter().map(|row| row.0).collect()
}

/// One sampling method and its settings.
trait Sampler: std::fmt::Debug {
    /// The most steps it can take.
    fn most_steps(&self, noise: &Noise) -> usize {
        noise.len()
    }

    /// What a run of `steps` steps goes through; `steps` is at least 1 and at most [`Sampler::most_steps`].
    fn points(&self, noise: &Noise, steps: usize) -> Points;

    /// Turns the noise `x`, of standard deviation `points.init_noise_sigma`, into the latents of an image.
    fn sample(&self, run: &mut Run, x: &mut [f32]) -> Result<()>;

    /// The points without those of the first steps.
    fn skip(&self, points: Points, steps: usize) -> Points {
        let timesteps = points.timesteps[steps..].to_vec();
        let sigmas = points.sigmas.get(steps..).unwrap_or_default().to_vec();
        Points { timesteps, sigmas, ..points }
    }

    /// Shares of an image and of noise in what the first of `points` begins with.
    fn shares(&self, noise: &Noise, points: &Points) -> [f64; 2] {
        match points.sigmas.first() {
            Some(sigma) => [1.0 / sigma.hypot(1.0), sigma / sigma.hypot(1.0)],
            None => {
                let abar = noise.abar(points.timesteps[0] as i64);
                [abar.sqrt(), (1.0 - abar).sqrt()]
            }
        }
    }
}

/// What one sampling run goes through, from noise to image.
#[derive(Clone, Debug)]
pub struct Points {
    /// What the model is told at each of its evaluations; may lie between training timesteps.
    pub timesteps: Vec<f32>,
    /// The noise level before each step, and a last 0; empty where a method goes by timesteps.
    pub sigmas: Vec<f64>,
    /// Standard deviation of the noise to start from.
    pub init_noise_sigma: f32,
}

impl Points {
    /// Points of a method that goes by timesteps: x keeps the variance of the training data.
    fn of_timesteps(timesteps: impl IntoIterator<Item = f64>) -> Points {
        let timesteps = timesteps.into_iter().map(|t| t as f32).collect();
        Points { timesteps, sigmas: vec![], init_noise_sigma: 1.0 }
    }
}

/// One run of a sampler: the points it goes through, and the two things it asks for on the way.
struct Run<'a> {
    noise: &'a Noise,
    points: &'a Points,
    /// Of the whole way, of which these points may be the end.
    steps: usize,
    model: &'a mut dyn FnMut(&[f32], f32, f32) -> Result<Vec<f32>>,
    fresh: &'a mut dyn FnMut() -> Result<Vec<f32>>,
}

impl Run<'_> {
    /// The model's output for the latents `x * scale` at timestep `t`.
    fn model(&mut self, x: &[f32], scale: f32, t: f32) -> Result<Vec<f32>> {
        (self.model)(x, scale, t)
    }

    /// Standard normal noise, as long as the latents.
    fn fresh(&mut self) -> Result<Vec<f32>> {
        (self.fresh)()
    }
}

/// What diffusers calls a scheduler: a sampler over the noise schedule of a `scheduler_config.json`.
#[derive(Debug)]
pub struct Scheduler {
    name: &'static str,
    noise: Noise,
    sampler: Box<dyn Sampler>,
}

impl Scheduler {
    /// The scheduler of a `scheduler_config.json`. With a `name` (`ddim`, `euler-a`, ... or a class of diffusers) it is that
    /// scheduler over the same configuration: keys in the file hold, absent ones take the defaults of the *new* class, as
    /// in diffusers' `from_config`. (So over Stable Diffusion 1.5's file DDIM spaces its steps `leading` and Euler
    /// `linspace`.)
    ///
    /// # Errors
    /// A name that is not known; a value that is not supported: key and value are named.
    pub fn new(config: &Config, name: Option<&str>) -> Result<Scheduler> {
        let wanted = name.map_or_else(|| config.str("_class_name", None), |name| Ok(name.to_string()))?;
        let row = SAMPLERS.iter().find(|(name, class, _)| *name == wanted || *class == wanted);
        let Some(mut row) = row else {
            if name.is_none() {
                bail!("{}: choose another with --scheduler", config.unsupported("_class_name", wanted));
            }
            bail!("scheduler {wanted:?} is not known; choose one of {}", names().join(", "));
        };
        // Keys that choose among the forms of a class.
        if row.0 == "dpmpp-2m" && config.str("algorithm_type", "dpmsolver++")? == "sde-dpmsolver++" {
            row = SAMPLERS.iter().find(|(name, ..)| *name == "dpmpp-2m-sde").unwrap_or(row);
        }
        let karras = format!("{}-karras", row.0);
        if let Some(karras) = SAMPLERS.iter().find(|(name, ..)| *name == karras)
            && config.bool("use_karras_sigmas", false)?
        {
            row = karras;
        }
        let (noise, sampler) = (row.2)(config)?;
        Ok(Scheduler { name: row.0, noise, sampler })
    }

    /// [`Scheduler::new`] as diffusers' Stable Diffusion pipelines set it up, whatever the file says: timesteps of `leading`
    /// spacing are one later, and the predicted latents are not clipped.
    ///
    /// # Errors
    /// As [`Scheduler::new`].
    pub fn for_stable_diffusion(config: &Config, name: Option<&str>) -> Result<Scheduler> {
        Scheduler::new(&config.with("steps_offset", 1).with("clip_sample", false), name)
    }

    /// The name on the command line that chooses this scheduler.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What a run of `steps` steps goes through; some methods evaluate the model more than once in a step.
    ///
    /// # Errors
    /// A number of steps that the scheduler cannot take.
    pub fn points(&self, steps: usize) -> Result<Points> {
        let most = self.sampler.most_steps(&self.noise);
        if !(1..=most).contains(&steps) {
            bail!("{steps} steps: the {} scheduler takes 1 to {most}", self.name);
        }
        Ok(self.sampler.points(&self.noise, steps))
    }

    /// Turns standard normal noise `x` into the latents of an image in `steps` steps. `model(x, scale, t)` gives the model's
    /// output for the latents `x * scale` at timestep `t`; `fresh()` gives standard normal noise. Both as long as `x`.
    ///
    /// # Errors
    /// A number of steps that the scheduler cannot take, and those of `model` and `fresh`.
    pub fn sample(
        &self,
        steps: usize,
        x: &mut [f32],
        mut model: impl FnMut(&[f32], f32, f32) -> Result<Vec<f32>>,
        mut fresh: impl FnMut() -> Result<Vec<f32>>,
    ) -> Result<()> {
        let points = self.points(steps)?;
        x.iter_mut().for_each(|v| *v *= points.init_noise_sigma);
        let (noise, points) = (&self.noise, &points);
        let mut run = Run { noise, points, steps, model: &mut model, fresh: &mut fresh };
        self.sampler.sample(&mut run, x)
    }

    /// What the latents `x`, scaled as the model sees them, are on their way to, by what it said of them at timestep `t`.
    pub fn denoised(&self, x: &[f32], output: &[f32], t: f32) -> Vec<f32> {
        let abar = self.noise.abar(t.round() as i64);
        x.iter().zip(output).map(|(&x, &o)| self.noise.predict(o, x, abar).0 as f32).collect()
    }

    /// The last share `strength` of the points of a run of `steps` steps, as diffusers' image-to-image pipelines have them.
    ///
    /// # Errors
    /// As [`Scheduler::points`]; a strength that leaves no step.
    pub fn points_from(&self, steps: usize, strength: f32) -> Result<Points> {
        let points = self.points(steps)?;
        let left = ((steps as f32 * strength) as usize).min(steps);
        if left == 0 {
            bail!("strength {strength} leaves none of {steps} steps: take more of either");
        }
        Ok(self.sampler.skip(points, steps - left))
    }

    /// [`Scheduler::sample`] from the latents `x` of an image that are covered by `noise`, for the last share `strength` of the steps (Meng
    /// et al. 2022, "SDEdit").
    ///
    /// # Errors
    /// As [`Scheduler::points_from`], and those of `model` and `fresh`.
    pub fn sample_from(
        &self,
        (steps, strength): (usize, f32),
        x: &mut [f32],
        noise: &[f32],
        mut model: impl FnMut(&[f32], f32, f32) -> Result<Vec<f32>>,
        mut fresh: impl FnMut() -> Result<Vec<f32>>,
    ) -> Result<()> {
        let points = self.points_from(steps, strength)?;
        let [of_image, of_noise] = self.sampler.shares(&self.noise, &points);
        for (x, n) in x.iter_mut().zip(noise) {
            *x = (of_image * f64::from(*x) + of_noise * f64::from(*n)) as f32;
        }
        let (noise, points) = (&self.noise, &points);
        let mut run = Run { noise, points, steps, model: &mut model, fresh: &mut fresh };
        self.sampler.sample(&mut run, x)
    }
}
