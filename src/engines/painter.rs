//! The loop that paints: text encoder, UNet, scheduler and autoencoder of a Stable Diffusion model.
//!
//! One plan of the UNet, recorded once, is replayed for each step of each batch; the step formula runs on the CPU over the
//! latents, which are read and written once per step.

use super::Part;
use super::clip::TextEncoder;
use super::model::{Model, Work};
use super::noise::Noise;
use super::options::Options;
use super::tiles::{SIDES, Tiles};
use crate::core::{Gpu, Memory, Needs, OutOfMemory, Weights, plan};
use crate::data::checkpoint::Checkpoint;
use crate::data::image::{Filter, Rgb};
use crate::data::nchw_to_nhwc;
use crate::diffusion::Scheduler;
use crate::models::autoencoder::Autoencoder;
use crate::models::vae::{Latents, modern_names};
use anyhow::{Context, Error, Result, anyhow, bail};
use std::rc::Rc;

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
}

/// A model on the device, to paint images of one size. It is planned as a whole when it is made; weights are read when the first
/// image is painted.
pub struct Painter {
    model: Model,
    text: TextEncoder,
    context: Part,
    unet: Part,
    vae: Part,
    /// The autoencoder's first half, for pictures that are painted from others.
    encoder: Option<Part>,
    /// How the autoencoder decodes what does not fit as a whole.
    tiles: Option<Tiles>,
    /// Memory is short: a part gives its own back before the next is loaded.
    in_turn: bool,
    scheduler: Scheduler,
    options: Options,
    size: [usize; 2],
    batch: usize,
    vae_batch: usize,
    guided: bool,
    /// Context of the negative prompt, once it was asked for.
    negative: Vec<f32>,
}

impl Painter {
    /// Plans the work of all parts of `model`, of whose files the headers are read; at most `images` are painted at once. Where memory
    /// does not hold all parts, each is loaded when its turn comes.
    ///
    /// # Errors
    /// Options that the model does not allow, weights that are missing or of other shapes, an adapter that is too small.
    pub fn new(gpu: &Gpu, model: &Model, options: &Options, images: usize) -> Result<Painter> {
        if !options.guidance.is_finite() || options.guidance < 0.0 {
            bail!("--guidance {} must be a number from 0", options.guidance);
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
        let guided = options.guidance > 1.0 && !distilled;

        let work = Work { size, batch, vae_batch, guided };
        let dtype = gpu.caps().weights();
        let text = TextEncoder::of(gpu, model, dtype)?;
        let part = |weights: &Rc<Checkpoint>, record: fn(&Model, &Weights, Work)| {
            let model = model.clone();
            Part::open(gpu, dtype, weights, move |w| record(&model, w, work))
                .map_err(|e| sized(e, size, batch))
        };
        let weights = model.parts.unet.weights()?;
        let context = part(&weights, Model::record_context)?;
        let unet = part(&weights, Model::record_unet)?;
        let weights = vae_weights(model)?;
        let (vae, tiles) = match part(&weights, Model::record_vae) {
            Err(e) if e.is::<OutOfMemory>() => tiled(gpu, model, &weights, work).map_err(|_| e)?,
            vae => (vae?, None),
        };
        fit(gpu, &[&context, &unet]).map_err(|e| sized(e, size, batch))?;
        let in_turn = fit(gpu, &[text.part(), &context, &unet, &vae]).is_err();
        Ok(Painter {
            model: model.clone(),
            text,
            context,
            unet,
            vae,
            encoder: None,
            tiles,
            in_turn,
            scheduler,
            options: options.clone(),
            size,
            batch,
            vae_batch,
            guided,
            negative: vec![],
        })
    }

    /// The same, for pictures that are painted from others.
    ///
    /// # Errors
    /// An autoencoder without its first half; too little memory; a strength that leaves no step.
    pub fn from_images(mut self) -> Result<Painter> {
        self.scheduler.points_from(self.options.steps, self.options.strength)?;
        let weights = vae_weights(&self.model)?;
        let work = Work { size: self.size, batch: 1, vae_batch: 1, guided: false };
        let model = self.model.clone();
        let gpu = self.vae.gpu.clone();
        let encoder =
            Part::open(&gpu, gpu.caps().weights(), &weights, move |w| model.record_encoder(w, work));
        let encoder = encoder.map_err(|e| sized(e, self.size, 1))?;
        let all = [self.text.part(), &self.context, &self.unet, &self.vae, &encoder];
        self.in_turn |= fit(&gpu, &all).is_err();
        self.encoder = Some(encoder);
        Ok(self)
    }

    /// Tokens of a prompt that the text encoder reads.
    pub fn tokens(&self) -> usize {
        self.text.shape()[0]
    }

    /// What each part takes: the text encoder for a prompt, the UNet for a step of a batch, the autoencoder for some images.
    pub fn needs(&self) -> [(&'static str, Needs); 3] {
        let (text, unet, vae) = (self.text.part().needs(), self.unet.needs(), self.vae.needs());
        let unet = Needs { memory: unet.memory + self.context.needs().memory, ..unet };
        [("text encoder", text), ("UNet", unet), ("autoencoder", vae)]
    }

    /// Side of the tiles in which images are decoded, in pixels, where these do not fit as a whole.
    pub fn tile(&self) -> Option<usize> {
        self.tiles.as_ref().map(|tiles| tiles.size[0].max(tiles.size[1]) * self.model.vae.latents().scale)
    }

    /// Whether memory is too short for all parts at once, so that they are loaded in turn.
    pub fn in_turn(&self) -> bool {
        self.in_turn
    }

    /// All parts, with the work that they belong to.
    fn parts(&mut self) -> Vec<(Stage, &mut Part)> {
        let parts = [
            (Stage::Text, self.text.part_mut()),
            (Stage::Unet, &mut self.context),
            (Stage::Unet, &mut self.unet),
            (Stage::Vae, &mut self.vae),
        ];
        parts.into_iter().chain(self.encoder.as_mut().map(|part| (Stage::Encoder, part))).collect()
    }

    /// Sees that the parts of a stage are loaded. Where memory is short, the others leave first; that may be found out here, since wgpu
    /// does not say how much there is.
    fn load(&mut self, stage: Stage) -> Result<()> {
        let load = |painter: &mut Painter| -> Result<()> {
            if painter.in_turn {
                let mut others = painter.parts().into_iter().filter(|(s, _)| *s != stage);
                others.try_for_each(|(_, part)| part.unload())?;
            }
            let mut own = painter.parts().into_iter().filter(|(s, _)| *s == stage);
            own.try_for_each(|(_, part)| part.plan().map(|_| ()))
        };
        let mut loaded = load(self);
        if !self.in_turn && loaded.as_ref().is_err_and(|e| e.is::<OutOfMemory>()) {
            self.in_turn = true;
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
        let [unet, vae] = [&self.unet, &self.vae].map(|part| part.needs().flops);
        // Of a tile, or of some images.
        let vae = match &self.tiles {
            Some(tiles) => vae * tiles.count() as f64,
            None => vae / self.vae_batch as f64,
        };
        Ok(evaluations as f64 * unet / self.batch as f64 + vae)
    }

    /// The end of a prompt that is too long for the text encoder; empty for most.
    ///
    /// # Errors
    /// As [`PromptReader::lost`](super::clip::PromptReader::lost).
    pub fn lost(&self, prompt: &str) -> Result<String> {
        self.text.reader().lost(prompt)
    }

    /// Images painted at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Paints at most [`Painter::batch`] images: RGB, one byte per channel, row by row. `after_step` may stop the work with an
    /// error.
    ///
    /// # Errors
    /// Latents that overflow, a device that fails, and those of `after_step`.
    pub fn paint(
        &mut self,
        requests: &[Request],
        mut after_step: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        let n = requests.len();
        assert!((1..=self.batch).contains(&n), "{n} images in a batch of {}", self.batch);

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
            true => Some(self.encode(requests, &draw())?),
            false => None,
        };

        self.load(Stage::Text)?;
        let prompts: Vec<&str> = requests.iter().map(|r| r.prompt).collect();
        if self.guided && self.negative.is_empty() {
            self.negative = self.text.encode(&[&self.options.negative])?;
        }
        let mut context = self.negative.repeat(self.batch);
        context.extend(self.text.encode(&prompts)?);
        // Unused places of the batch hold zeros.
        let of_prompt: usize = self.text.shape().iter().product();
        context.resize(of_prompt * self.batch * if self.guided { 2 } else { 1 }, 0.0);
        self.load(Stage::Unet)?;
        let (unet, keys) = (self.unet.plan()?, self.context.plan()?);
        keys.write("context", &context)?;
        keys.run()?;
        for (path, _) in self.model.unet.cross_attentions() {
            unet.copy(&path, keys, &path);
        }
        if self.model.unet.time_cond_proj_dim.is_some() {
            unet.write("guidance", &self.model.unet.guidance_embedding(self.options.guidance))?;
        }

        let noise = draw();
        let (steps, strength) = (self.options.steps, self.options.strength);
        let points = match origin {
            Some(_) => self.scheduler.points_from(steps, strength)?,
            None => self.scheduler.points(steps)?,
        };
        let evaluations = points.timesteps.len();
        let mut done = 0;
        let place = |i: usize, what: &str| format!("step {i} of {evaluations}: {what}");
        let model = |x: &[f32], scale: f32, t: f32| {
            finite(x, each, requests, || place(done, "the latent"))?;
            done += 1;
            let mut input: Vec<f32> = x.iter().map(|v| v * scale).collect();
            input.resize(each * self.batch, 0.0);
            unet.write("latents", &input)?;
            unet.write("time", &self.model.unet.timestep_embedding(&[t]))?;
            unet.run()?;
            let mut out = unet.read("out")?;
            if self.guided {
                let with = out.split_off(each * self.batch);
                let scale = self.options.guidance;
                out.iter_mut().zip(&with).for_each(|(out, with)| *out += scale * (with - *out));
                if self.options.guidance_rescale > 0.0 {
                    let images = out.chunks_exact_mut(each).zip(with.chunks_exact(each));
                    images.for_each(|(out, with)| rescale(out, with, self.options.guidance_rescale));
                }
            }
            out.truncate(each * n);
            finite(&out, each, requests, || place(done, "the UNet's output"))?;
            after_step()?;
            Ok(out)
        };
        let x = match origin {
            Some(mut x) => {
                self.scheduler.sample_from((steps, strength), &mut x, &noise, model, || Ok(draw()))?;
                x
            }
            None => {
                let mut x = noise;
                self.scheduler.sample(steps, &mut x, model, || Ok(draw()))?;
                x
            }
        };
        finite(&x, each, requests, || place(evaluations, "the latent"))?;
        self.decode(&x, each, requests)
    }

    /// The latents of the images that pictures are painted from, drawn from their distributions by `noise`.
    fn encode(&mut self, requests: &[Request], noise: &[f32]) -> Result<Vec<f32>> {
        let Latents { scaling_factor, shift_factor, .. } = self.model.vae.latents();
        self.load(Stage::Encoder)?;
        let plan = self.encoder.as_mut().context("a painter that was not made for it")?.plan()?;
        let (mut latents, [height, width]) = (vec![], self.size);
        for (init, noise) in
            requests.iter().filter_map(|r| r.init).zip(noise.chunks(noise.len() / requests.len()))
        {
            let image = init.resize(width, height, Filter::Lanczos);
            let pixels: Vec<f32> =
                image.data.iter().map(|&byte| f32::from(byte) / 255.0 * 2.0 - 1.0).collect();
            plan.write("image", &pixels)?;
            plan.run()?;
            let mut x = plan.read("mean")?;
            if matches!(self.model.vae, Autoencoder::Kl(_)) {
                let deviation = |logvar: f32| (0.5 * logvar.clamp(-30.0, 20.0)).exp();
                let logvar = plan.read("logvar")?;
                x.iter_mut().zip(logvar).zip(noise).for_each(|((x, v), n)| *x += deviation(v) * n);
            }
            latents.extend(x.iter().map(|v| (v - shift_factor) * scaling_factor));
        }
        Ok(latents)
    }

    /// Pixels of latents.
    fn decode(&mut self, latents: &[f32], each: usize, requests: &[Request]) -> Result<Vec<Vec<u8>>> {
        let Latents { scaling_factor, shift_factor, channels, .. } = self.model.vae.latents();
        let byte = |v: &f32| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let mut images = Vec::with_capacity(latents.len() / each);
        self.load(Stage::Vae)?;
        let vae = self.vae.plan()?;
        let [height, width] = self.size;
        let size = 3 * height * width;
        let each_at_once = if self.tiles.is_some() { 1 } else { self.vae_batch };
        for part in latents.chunks(each * each_at_once) {
            let z: Vec<f32> = part.iter().map(|v| v / scaling_factor + shift_factor).collect();
            let mut run = |mut z: Vec<f32>, length: usize| {
                z.resize(length, 0.0);
                vae.write("latents", &z)?;
                vae.run()?;
                vae.read("image")
            };
            let pixels = match &self.tiles {
                None => run(z, each * self.vae_batch)?,
                Some(tiles) => {
                    let decoded = tiles.cut(&z, channels).into_iter().map(|tile| {
                        let length = tile.len();
                        run(tile, length)
                    });
                    tiles.join(decoded.collect::<Result<_>>()?, 3)
                }
            };
            let (n, first) = (part.len() / each, images.len());
            finite(&pixels[..n * size], size, &requests[first..], || "the autoencoder's output".into())?;
            let painted = pixels.chunks(size).take(n);
            images.extend(painted.map(|image| image.iter().map(byte).collect::<Vec<u8>>()));
        }
        Ok(images)
    }
}

/// Sees that parts fit together.
fn fit(gpu: &Gpu, parts: &[&Part]) -> Result<()> {
    let memory = parts.iter().fold(Memory::default(), |sum, part| sum + part.needs().memory);
    plan::fits(gpu, &memory, memory.total())
}

/// The autoencoder's weights under today's names.
fn vae_weights(model: &Model) -> Result<Rc<Checkpoint>> {
    Ok(Rc::new(modern_names((*model.parts.vae.weights()?).clone())))
}

/// The autoencoder for the largest tiles that fit, and these.
fn tiled(gpu: &Gpu, model: &Model, weights: &Rc<Checkpoint>, work: Work) -> Result<(Part, Option<Tiles>)> {
    let scale = model.vae.latents().scale;
    let whole = work.size.map(|s| s / scale);
    let mut why = anyhow!("no tile is smaller than the image");
    for side in SIDES.into_iter().filter(|&side| side < whole[0] || side < whole[1]) {
        let tiles = Tiles::new(whole, side, scale);
        let work = Work { size: tiles.size.map(|s| s * scale), vae_batch: 1, ..work };
        let model = model.clone();
        match Part::open(gpu, gpu.caps().weights(), weights, move |w| model.record_vae(w, work)) {
            Ok(part) => return Ok((part, Some(tiles))),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// What a batch goes through.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Encoder,
    Text,
    Unet,
    Vae,
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
