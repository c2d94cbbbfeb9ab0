//! The loop that paints: text encoder, UNet, scheduler and autoencoder of a Stable Diffusion model.
//!
//! One plan of the UNet, recorded once, is replayed for each step of each batch; the step formula runs on the CPU over the
//! latents, which are read and written once per step.

use super::Part;
use super::clip::TextEncoder;
use super::contexts::Contexts;
use super::model::{Model, Work};
use super::noise::Noise;
use super::options::Options;
use super::pixels::Pixels;
use crate::core::{Gpu, Memory, OutOfMemory, Scratch, Weights, plan};
use crate::data::image::Rgb;
use crate::data::nchw_to_nhwc;
use crate::diffusion::Scheduler;
use anyhow::{Error, Result, bail};

/// Pixels whose activations are kept on the device at once, unless a batch is asked for.
const PIXELS: usize = 512 * 512;

/// One image to paint.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it shows.
    pub prompt: &'a str,
    /// Decides its noise, as torch's CPU generator draws it: the same image whatever else is in the batch.
    pub seed: u64,
    /// What it is painted from, if it is: of all images of a batch or of none.
    pub init: Option<&'a Rgb>,
    /// Share of the steps that it goes through if it is: the same in all of a batch.
    pub strength: f32,
    /// Scale of the guidance: the same in all of a batch.
    pub guidance: f32,
}

/// What a step has come to, for those who want to see it.
pub struct Step<'s> {
    /// From 1.
    pub number: usize,
    scheduler: &'s Scheduler,
    input: &'s [f32],
    output: &'s [f32],
    timestep: f32,
}

impl Step<'_> {
    /// What the latents of the batch, (N, h, w, channels), are on their way to.
    pub fn latents(&self) -> Vec<f32> {
        self.scheduler.denoised(self.input, self.output, self.timestep)
    }
}

/// A model on the device, to paint images of one size. It is planned as a whole when it is made; weights are read when the first
/// image is painted.
pub struct Painter {
    model: Model,
    contexts: Contexts,
    context: Part,
    unet: Part,
    pixels: Pixels,
    /// Memory is short: of what paints, too, a part gives its own back before the next is loaded.
    in_turn: bool,
    scheduler: Scheduler,
    options: Options,
    size: [usize; 2],
    batch: usize,
    guided: bool,
}

impl Painter {
    /// Plans the work of all parts of `model`, of whose files the headers are read; at most `images` are painted at once, from prompts
    /// that the text encoder reads in `chunks`. It reads, and leaves the device before the others come; where memory does not hold these
    /// together, each is loaded when its turn comes.
    ///
    /// # Errors
    /// Options that the model does not allow, weights that are missing or of other shapes, an adapter that is too small.
    pub fn new(gpu: &Gpu, model: &Model, options: &Options, images: usize, chunks: usize) -> Result<Painter> {
        let guidance = options.guidance.all();
        if let Some(scale) = guidance.iter().find(|scale| !scale.is_finite() || **scale < 0.0) {
            bail!("--guidance {scale} must be a number from 0");
        }
        if !(0.0..=1.0).contains(&options.guidance_rescale) {
            bail!("--guidance-rescale {} must be a share from 0 to 1", options.guidance_rescale);
        }
        let size @ [height, width] = model.size(options.size)?;
        let scheduler = model.scheduler(options.scheduler.as_deref())?;
        scheduler.points(options.steps)?;
        let fitting = PIXELS / (height * width);
        let batch = options.batch.map_or(fitting.clamp(1, 16), usize::from).min(images).max(1);
        let vae_batch = fitting.clamp(1, batch);
        let distilled = model.unet.time_cond_proj_dim.is_some();
        let guided = guidance.iter().any(|scale| *scale > 1.0) && !distilled;

        let work = Work { size, batch, vae_batch, guided, chunks };
        let dtype = gpu.caps().weights();
        let text = TextEncoder::of(gpu, model, dtype)?;
        let weights = model.parts.unet.weights()?;
        let part = |record: fn(&Model, &Weights, Work)| {
            let model = model.clone();
            Part::open(gpu, dtype, &weights, move |w| record(&model, w, work))
        };
        let sized = |e: Error| sized(e, [height, width], batch);
        let context = part(Model::record_context).map_err(sized)?;
        let unet = part(Model::record_unet).map_err(sized)?;
        let pixels = Pixels::new(gpu, model, work).map_err(sized)?;
        let mut painter = Painter {
            model: model.clone(),
            contexts: Contexts::new(text, chunks),
            context,
            unet,
            pixels,
            in_turn: false,
            scheduler,
            options: options.clone(),
            size,
            batch,
            guided,
        };
        painter.fit().map_err(sized)?;
        Ok(painter)
    }

    /// The same, for pictures that are painted from others.
    ///
    /// # Errors
    /// An autoencoder without its first half; too little memory; a strength that leaves no step.
    pub fn from_images(mut self) -> Result<Painter> {
        for strength in self.options.strength.all() {
            self.scheduler.points_from(self.options.steps, *strength)?;
        }
        self.pixels.with_encoder().map_err(|e| sized(e, self.size, 1))?;
        self.fit().map_err(|e| sized(e, self.size, self.batch))?;
        Ok(self)
    }

    /// Finds out whether what paints fits together, and has its parts share what they can.
    fn fit(&mut self) -> Result<()> {
        let gpu = self.unet.gpu.clone();
        let fits = |memory: Memory| plan::fits(&gpu, &memory, memory.total());
        self.share();
        if fits(self.painting()).is_err() {
            self.in_turn = true;
            self.share();
            fits(self.painting())?;
        }
        Ok(())
    }

    /// Has parts that are loaded together use the same buffers for intermediate results.
    fn share(&mut self) {
        let (all, in_turn) = (Scratch::default(), self.in_turn);
        for stage in Stage::PAINTING {
            let scratch = if in_turn { Scratch::default() } else { all.clone() };
            let own = self.parts().into_iter().filter(|(s, _)| *s == stage);
            own.for_each(|(_, part)| part.share(&scratch));
        }
    }

    /// What is on the device at once while it paints, at most.
    fn painting(&mut self) -> Memory {
        let in_turn = self.in_turn;
        let mut of = |stages: &[Stage]| {
            let own = self.parts().into_iter().filter(|(stage, _)| stages.contains(stage));
            own.fold(Memory::default(), |sum, (_, part)| Memory {
                activation: part.scratch.bytes(),
                ..sum + part.needs().memory
            })
        };
        match in_turn {
            true => {
                let each = Stage::PAINTING.map(|stage| of(&[stage]));
                each.into_iter().max_by_key(Memory::total).unwrap_or_default()
            }
            false => of(&Stage::PAINTING),
        }
    }

    /// Bytes of device memory that it takes at its peak.
    pub fn memory(&mut self) -> usize {
        self.painting().total().max(self.contexts.text.part().needs().memory.total())
    }

    /// In words, what each part takes of the device: the text encoder for a prompt, the UNet for a step of a batch, the autoencoder for
    /// some images; and what they take at once.
    pub fn takes(&mut self) -> String {
        let most = self.memory() >> 20;
        let parts = [self.contexts.text.part(), &self.unet, &self.pixels.decoder.part]
            .map(|part| part.needs().memory);
        let [text, unet, vae] = parts;
        let [text, unet, vae] = [text, unet + self.context.needs().memory, vae].map(|m| m.total() >> 20);
        let in_turn = if self.in_turn { " in turn" } else { "" };
        format!(
            "text encoder {text} MiB, UNet {unet} MiB, autoencoder {vae} MiB{in_turn}; at most {most} MiB at once"
        )
    }

    /// Sides of the tiles in which images are decoded, and encoded, in pixels, where these do not fit as a whole.
    pub fn tiles(&self) -> [Option<usize>; 2] {
        let scale = self.model.vae.latents().scale;
        [Some(&self.pixels.decoder), self.pixels.encoder.as_ref()].map(|half| {
            let tiles = half?.tiles.as_ref()?;
            Some(tiles.size[0].max(tiles.size[1]) * scale)
        })
    }

    /// All parts, with the work that they belong to.
    fn parts(&mut self) -> Vec<(Stage, &mut Part)> {
        let parts = [
            (Stage::Text, self.contexts.text.part_mut()),
            (Stage::Unet, &mut self.context),
            (Stage::Unet, &mut self.unet),
            (Stage::Vae, &mut self.pixels.decoder.part),
        ];
        let encoder = self.pixels.encoder.as_mut().map(|half| (Stage::Encoder, &mut half.part));
        parts.into_iter().chain(encoder).collect()
    }

    /// Sees that the parts of a stage are loaded, and that the text encoder is not beside others; where memory is short, no stage is beside
    /// another. That may be found out here, since wgpu does not say how much there is.
    fn load(&mut self, stage: Stage) -> Result<()> {
        let load = |painter: &mut Painter| -> Result<()> {
            let in_turn = painter.in_turn;
            let alone = |one: Stage| in_turn || one == Stage::Text;
            let leaves = |other: Stage| other != stage && (alone(stage) || alone(other));
            let mut others = painter.parts().into_iter().filter(|(other, _)| leaves(*other));
            others.try_for_each(|(_, part)| part.unload())?;
            let mut own = painter.parts().into_iter().filter(|(s, _)| *s == stage);
            own.try_for_each(|(_, part)| part.plan().map(|_| ()))
        };
        let mut loaded = load(self);
        if !self.in_turn && loaded.as_ref().is_err_and(|e| e.is::<OutOfMemory>()) {
            self.in_turn = true;
            self.parts().into_iter().try_for_each(|(_, part)| part.unload())?;
            self.share();
            loaded = load(self);
        }
        loaded.map_err(|e| sized(e, self.size, self.batch))
    }

    /// Floating point operations of an image, its prompt aside.
    ///
    /// # Errors
    /// None that [`Painter::new`] did not have.
    pub fn flops_of_an_image(&self) -> Result<f64> {
        let evaluations = self.scheduler.points(self.options.steps)?.timesteps.len();
        let unet = evaluations as f64 * self.unet.needs().flops / self.batch as f64;
        Ok(unet + self.pixels.flops_of_an_image())
    }

    /// Images painted at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Paints at most [`Painter::batch`] images: RGB, one byte per channel, row by row. `coming`: prompts that it will be asked for later,
    /// the next ones first. `after_step` may stop the work with an error.
    ///
    /// # Errors
    /// Latents that overflow, a device that fails, and those of `after_step`.
    pub fn paint<'p>(
        &mut self,
        requests: &[Request<'p>],
        coming: impl Iterator<Item = &'p str>,
        mut after_step: impl FnMut(&Step) -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        let n = requests.len();
        assert!((1..=self.batch).contains(&n), "{n} images in a batch of {}", self.batch);
        let context = self.context(requests, coming)?;

        let Request { strength, guidance, .. } = requests[0];
        let [h, w] = self.size.map(|s| s / self.model.vae.latents().scale);
        let c = self.model.vae.latents().channels;
        let each = h * w * c;
        let rng = self.options.rng;
        let mut generators: Vec<Noise> = requests.iter().map(|r| Noise::new(rng, r.seed)).collect();
        let mut draw = || -> Vec<f32> {
            let one = |generator: &mut Noise| nchw_to_nhwc(&generator.normals(each), [1, c, h, w]);
            generators.iter_mut().flat_map(one).collect()
        };
        let origin = match requests.iter().all(|r| r.init.is_some()) {
            true => Some(self.origin(requests, &draw())?),
            false => None,
        };
        self.attend(&context)?;

        let (unet, model, guided) = (self.unet.plan()?, &self.model.unet, self.guided);
        if model.time_cond_proj_dim.is_some() {
            unet.write("guidance", &model.guidance_embedding(guidance))?;
        }
        let (noise, steps, scheduler) = (draw(), self.options.steps, &self.scheduler);
        let points = match origin {
            Some(_) => scheduler.points_from(steps, strength)?,
            None => scheduler.points(steps)?,
        };
        let evaluations = points.timesteps.len();
        let mut done = 0;
        let place = |i: usize, what: &str| format!("step {i} of {evaluations}: {what}");
        let evaluate = |x: &[f32], scale: f32, t: f32| {
            finite(x, each, requests, || place(done, "the latent"))?;
            done += 1;
            let mut input: Vec<f32> = x.iter().map(|v| v * scale).collect();
            input.resize(each * self.batch, 0.0);
            unet.write("latents", &input)?;
            unet.write("time", &model.timestep_embedding(&[t]))?;
            unet.run()?;
            let mut out = unet.read("out")?;
            if guided {
                let with = out.split_off(each * self.batch);
                out.iter_mut().zip(&with).for_each(|(out, with)| *out += guidance * (with - *out));
                if self.options.guidance_rescale > 0.0 {
                    let images = out.chunks_exact_mut(each).zip(with.chunks_exact(each));
                    images.for_each(|(out, with)| rescale(out, with, self.options.guidance_rescale));
                }
            }
            out.truncate(each * n);
            finite(&out, each, requests, || place(done, "the UNet's output"))?;
            after_step(&Step {
                number: done,
                scheduler,
                input: &input[..each * n],
                output: &out,
                timestep: t,
            })?;
            Ok(out)
        };
        let x = match origin {
            Some(mut x) => {
                scheduler.sample_from((steps, strength), &mut x, &noise, evaluate, || Ok(draw()))?;
                x
            }
            None => {
                let mut x = noise;
                scheduler.sample(steps, &mut x, evaluate, || Ok(draw()))?;
                x
            }
        };
        finite(&x, each, requests, || place(evaluations, "the latent"))?;

        self.load(Stage::Vae)?;
        let pixels = self.pixels.decode(&x)?;
        let size = pixels.len() / n;
        finite(&pixels, size, requests, || "the autoencoder's output".into())?;
        let byte = |v: &f32| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        Ok(pixels.chunks(size).map(|image| image.iter().map(byte).collect()).collect())
    }

    /// The latents of the images that a batch is painted from; `noise` draws them.
    fn origin(&mut self, requests: &[Request], noise: &[f32]) -> Result<Vec<f32>> {
        self.load(Stage::Encoder)?;
        let inits = requests.iter().filter_map(|r| r.init).zip(noise.chunks(noise.len() / requests.len()));
        let latents = inits.map(|(init, noise)| self.pixels.encode(init, noise));
        Ok(latents.collect::<Result<Vec<_>>>()?.concat())
    }

    /// What the UNet attends to for a batch: for each place the context of the negative prompt, if it is guided, and that of its own.
    fn context<'p>(
        &mut self,
        requests: &[Request<'p>],
        coming: impl Iterator<Item = &'p str>,
    ) -> Result<Vec<f32>> {
        let negative = self.options.negative.clone();
        let own = requests.iter().map(|r| r.prompt);
        let prompts: Vec<&str> = own.clone().chain(self.guided.then_some(&*negative)).collect();
        if !self.contexts.knows(&prompts) {
            self.load(Stage::Text)?;
            self.contexts.read(&prompts, coming)?;
        }
        let mut context = vec![];
        if self.guided {
            context.extend(self.contexts.of(&negative)?.repeat(self.batch));
        }
        for prompt in own {
            context.extend(self.contexts.of(prompt)?);
        }
        // Unused places of the batch hold zeros.
        let halves = if self.guided { 2 } else { 1 };
        context.resize(self.contexts.length() * self.batch * halves, 0.0);
        Ok(context)
    }

    /// Sees that the UNet attends to a batch's context.
    fn attend(&mut self, context: &[f32]) -> Result<()> {
        self.load(Stage::Unet)?;
        let (unet, keys) = (self.unet.plan()?, self.context.plan()?);
        keys.write("context", context)?;
        keys.run()?;
        self.model.unet.cross_attentions().iter().for_each(|(path, _)| unet.copy(path, keys, path));
        Ok(())
    }
}

/// What a batch goes through.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Text,
    Encoder,
    Unet,
    Vae,
}

impl Stage {
    /// Those that paint.
    const PAINTING: [Stage; 3] = [Stage::Encoder, Stage::Unet, Stage::Vae];
}

/// Moves the spread of `out` to that of `with`, by a share.
fn rescale(out: &mut [f32], with: &[f32], share: f32) {
    let spread = |values: &[f32]| {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
    };
    let factor = (spread(with) / spread(out).max(1e-12)) as f32;
    out.iter_mut().for_each(|v| *v *= share * factor + 1.0 - share);
}

/// Says of too little memory what for: a smaller size or batch may fit.
fn sized(e: Error, [height, width]: [usize; 2], batch: usize) -> Error {
    match e.is::<OutOfMemory>() {
        true => e.context(format!("{width}x{height} in batches of {batch}")),
        false => e,
    }
}

/// Refuses numbers that would become a black image: `each` of `values` belong to one of `requests`.
fn finite(values: &[f32], each: usize, requests: &[Request], what: impl Fn() -> String) -> Result<()> {
    match values.chunks(each).position(|image| image.iter().any(|v| !v.is_finite())) {
        Some(bad) => bail!(
            "{} for {:?} is not finite; try another scheduler, more steps or less guidance, or f32 weights",
            what(),
            requests[bad].prompt
        ),
        None => Ok(()),
    }
}
