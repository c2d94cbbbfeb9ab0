//! CLIP on a device: from prompts to the context of Stable Diffusion, from images and texts to embeddings.

use super::load;
use crate::core::{DType, Gpu, Plan};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::image::Rgb;
use crate::data::preprocess::Preprocess;
use crate::data::tokenizer::Tokenizer;
use crate::models::clip::{self, ClipConfig, TextConfig};
use anyhow::{Result, bail};
use rayon::prelude::*;

/// Images or texts that one run takes in.
const BATCH: usize = 8;

/// Rows of the token table for `ids`, on the CPU: the table is larger than many devices let a kernel see.
///
/// # Errors
/// An id beyond the table; a checkpoint without it.
pub fn embed(config: &TextConfig, checkpoint: &Checkpoint, prefix: &str, ids: &[u32]) -> Result<Vec<f32>> {
    let name = format!("{prefix}embeddings.token_embedding.weight");
    checkpoint.rows_f32(&name, ids, &[config.vocab_size, config.hidden_size()])
}

/// A text encoder of Stable Diffusion on a device: from prompts to the context that the UNet attends to.
pub struct TextEncoder {
    config: TextConfig,
    tokenizer: Tokenizer,
    checkpoint: Checkpoint,
    plan: Plan,
}

impl TextEncoder {
    /// Opens `text_encoder/` and `tokenizer/` of a Stable Diffusion folder; matrices are kept as `dtype`.
    ///
    /// # Errors
    /// A missing or broken file; a configuration that is not supported.
    pub fn open(gpu: &Gpu, folder: &Folder, dtype: DType) -> Result<TextEncoder> {
        let encoder = folder.sub("text_encoder");
        let tokenizer = Tokenizer::open(&folder.sub("tokenizer"))?;
        TextEncoder::new(gpu, &Config::of(&encoder)?, encoder.weights()?, tokenizer, dtype)
    }

    /// A text encoder of these parts. Names in `checkpoint` may start with `text_model.`.
    ///
    /// # Errors
    /// As [`TextEncoder::open`].
    pub fn new(
        gpu: &Gpu,
        config: &Config,
        checkpoint: Checkpoint,
        mut tokenizer: Tokenizer,
        dtype: DType,
    ) -> Result<TextEncoder> {
        let config = TextConfig::new(config)?;
        tokenizer.pad_to(config.positions)?;
        let checkpoint = clip::modern_names(checkpoint);
        let plan = load(gpu, dtype, &checkpoint, |w| {
            let shape = [1, config.positions, config.hidden_size()];
            let tokens = w.graph().input("tokens", &shape, DType::F32);
            w.graph().output("context", clip::text_model(w, &config, tokens));
        })?;
        Ok(TextEncoder { config, tokenizer, checkpoint, plan })
    }

    /// Shape of the context of one prompt: tokens, width.
    pub fn shape(&self) -> [usize; 2] {
        [self.config.positions, self.config.hidden_size()]
    }

    /// The context of each prompt, one after the other: (B, tokens, width). Prompts are cut off where they are too long.
    ///
    /// # Errors
    /// A tokenizer that does not belong to the model; a device that fails.
    pub fn encode(&mut self, prompts: &[&str]) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(prompts.len() * self.shape().iter().product::<usize>());
        for prompt in prompts {
            let ids = self.tokenizer.encode(prompt)?;
            self.plan.write("tokens", &embed(&self.config, &self.checkpoint, "", &ids)?)?;
            self.plan.run()?;
            out.extend(self.plan.read("context")?);
        }
        Ok(out)
    }
}

/// CLIP on a device: embeddings of images and texts, length 1, whose products are their cosines.
pub struct ClipEmbedder {
    config: ClipConfig,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    checkpoint: Checkpoint,
    gpu: Gpu,
    dtype: DType,
    /// Made when first asked for.
    images: Option<Plan>,
    texts: Option<Plan>,
}

/// Embeddings of images, one row per image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageEmbeds {
    /// Scaled to length 1.
    pub unit: Vec<Vec<f32>>,
    /// As the projection leaves them, of any length.
    pub raw: Vec<Vec<f32>>,
}

impl ClipEmbedder {
    /// Opens the folder of a `CLIPModel` with its tokenizer and, if it has one, its preprocessor_config.json; matrices are
    /// kept as `dtype`.
    ///
    /// # Errors
    /// A missing or broken file; a configuration that is not supported.
    pub fn open(gpu: &Gpu, folder: &Folder, dtype: DType) -> Result<ClipEmbedder> {
        const FILE: &str = "preprocessor_config.json";
        let config = Config::of(folder)?;
        if config.class()? != "CLIPModel" {
            return Err(config.unsupported("architectures", config.class()?));
        }
        let text = if folder.has(FILE) { folder.text(FILE)? } else { "{}".to_string() };
        let preprocess = Preprocess::new(&Config::parse(folder.name(FILE), &text)?)?;
        ClipEmbedder::new(gpu, &config, preprocess, folder.weights()?, Tokenizer::open(folder)?, dtype)
    }

    /// An embedder of these parts.
    ///
    /// # Errors
    /// A configuration that is not supported, parts that do not fit each other.
    pub fn new(
        gpu: &Gpu,
        config: &Config,
        preprocess: Preprocess,
        checkpoint: Checkpoint,
        mut tokenizer: Tokenizer,
        dtype: DType,
    ) -> Result<ClipEmbedder> {
        let name = config.name();
        let config = ClipConfig::new(config)?;
        if preprocess.crop != config.vision.image_size {
            let (crop, size) = (preprocess.crop, config.vision.image_size);
            bail!("{name}: image_size = {size}, but the preprocessor's crop_size is {crop}");
        }
        tokenizer.pad_to(config.text.positions)?;
        Ok(ClipEmbedder {
            config,
            preprocess,
            tokenizer,
            checkpoint,
            gpu: gpu.clone(),
            dtype,
            images: None,
            texts: None,
        })
    }

    /// Numbers in an embedding.
    pub fn width(&self) -> usize {
        self.config.projection
    }

    /// Embeddings of images.
    ///
    /// # Errors
    /// A checkpoint that lacks a tensor; a device that fails.
    pub fn images(&mut self, images: &[Rgb]) -> Result<ImageEmbeds> {
        let size = self.config.vision.image_size;
        if self.images.is_none() {
            let plan = load(&self.gpu, self.dtype, &self.checkpoint, |w| {
                let pixels = w.graph().input("pixels", &[BATCH, size, size, 3], DType::F32);
                let hidden = clip::vision_model(&w.sub("vision_model"), &self.config.vision, pixels);
                let features = clip::image_features(w, &self.config, hidden);
                w.graph().output("features", features);
                w.graph().output("embeds", clip::normalize(w.graph(), features));
            })?;
            self.images = Some(plan);
        }
        let plan = self.images.as_mut().expect("made above");
        let mut embeds = ImageEmbeds::default();
        for images in images.chunks(BATCH) {
            let pixels: Vec<Vec<f32>> =
                images.par_iter().map(|image| self.preprocess.pixels(image)).collect();
            let mut pixels = pixels.concat();
            pixels.resize(BATCH * size * size * 3, 0.0);
            plan.write("pixels", &pixels)?;
            plan.run()?;
            for (output, rows) in [("embeds", &mut embeds.unit), ("features", &mut embeds.raw)] {
                let numbers = plan.read(output)?;
                let numbers = numbers.chunks_exact(self.config.projection).take(images.len());
                rows.extend(numbers.map(<[f32]>::to_vec));
            }
        }
        self.finite(&embeds.unit)?;
        Ok(embeds)
    }

    /// Embeddings of texts, cut off where they are too long.
    ///
    /// # Errors
    /// A checkpoint that lacks a tensor or does not belong to the tokenizer; a device that fails.
    pub fn texts(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let (length, hidden) = (self.config.text.positions, self.config.text.hidden_size());
        if self.texts.is_none() {
            let plan = load(&self.gpu, self.dtype, &self.checkpoint, |w| {
                let tokens = w.graph().input("tokens", &[BATCH, length, hidden], DType::F32);
                let end = w.graph().input("end", &[BATCH, 1, length], DType::F32);
                let states = clip::text_model(&w.sub("text_model"), &self.config.text, tokens);
                w.graph().output("embeds", clip::text_embeds(w, &self.config, states, end));
            })?;
            self.texts = Some(plan);
        }
        let plan = self.texts.as_mut().expect("made above");
        let mut out = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            let mut ids = Vec::with_capacity(BATCH * length);
            for text in texts {
                ids.extend(self.tokenizer.encode(text)?);
            }
            let mut tokens = embed(&self.config.text, &self.checkpoint, "text_model.", &ids)?;
            let mut end = self.config.text.end_mask(&ids, length);
            tokens.resize(BATCH * length * hidden, 0.0);
            end.resize(BATCH * length, 1.0);
            plan.write("tokens", &tokens)?;
            plan.write("end", &end)?;
            plan.run()?;
            let embeds = plan.read("embeds")?;
            let embeds = embeds.chunks_exact(self.config.projection).take(texts.len());
            out.extend(embeds.map(<[f32]>::to_vec));
        }
        self.finite(&out)?;
        Ok(out)
    }

    fn finite(&self, embeds: &[Vec<f32>]) -> Result<()> {
        if embeds.iter().flatten().any(|v| !v.is_finite()) {
            bail!(
                "{}: embeddings are not finite: do weights and config.json belong together?",
                self.checkpoint.name()
            );
        }
        Ok(())
    }
}
