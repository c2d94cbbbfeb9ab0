//! CLIP on a device: from prompts to the context of Stable Diffusion, from images and texts to embeddings.

use super::Part;
use super::model::{self, Model};
use crate::core::{DType, Gpu, Needs};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::image::Rgb;
use crate::data::preprocess::Preprocess;
use crate::data::tokenizer::Tokenizer;
use crate::models::clip::{self, ClipConfig, TextConfig};
use crate::models::inversion::Inversion;
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

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

/// Sees that the checkpoint has the table that [`embed`] reads.
fn check_table(config: &TextConfig, checkpoint: &Checkpoint, prefix: &str) -> Result<()> {
    let name = format!("{prefix}embeddings.token_embedding.weight");
    checkpoint.check(&name, &[config.vocab_size, config.hidden_size()])
}

/// A text encoder of Stable Diffusion on a device: from prompts to the context that the UNet attends to.
pub struct TextEncoder {
    config: TextConfig,
    reader: PromptReader,
    checkpoint: Rc<Checkpoint>,
    part: Part,
}

impl TextEncoder {
    /// That of a Stable Diffusion; matrices are kept as `dtype`.
    ///
    /// # Errors
    /// A missing or broken file; a configuration that is not supported.
    pub fn of(gpu: &Gpu, model: &Model, dtype: DType) -> Result<TextEncoder> {
        let weights = (*model.parts.text.weights()?).clone();
        TextEncoder::new(gpu, model.text.clone(), weights, PromptReader::of(model)?, dtype)
    }

    /// A text encoder of these parts. Names in `checkpoint` may start with `text_model.`.
    ///
    /// # Errors
    /// As [`TextEncoder::of`].
    pub fn new(
        gpu: &Gpu,
        config: TextConfig,
        checkpoint: Checkpoint,
        reader: PromptReader,
        dtype: DType,
    ) -> Result<TextEncoder> {
        let checkpoint = Rc::new(clip::modern_names(checkpoint));
        check_table(&config, &checkpoint, "")?;
        let recorded = config.clone();
        let part = Part::open(gpu, dtype, &checkpoint, move |w| model::record_text(w, &recorded))?;
        Ok(TextEncoder { config, reader, checkpoint, part })
    }

    /// Shape of the context of one prompt: tokens, width.
    pub fn shape(&self) -> [usize; 2] {
        [self.config.positions, self.config.hidden_size()]
    }

    /// Its network.
    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// To load it, or to give its memory back.
    pub(super) fn part_mut(&mut self) -> &mut Part {
        &mut self.part
    }

    /// What it reads of prompts.
    pub fn reader(&self) -> &PromptReader {
        &self.reader
    }

    /// The context of each prompt, one after the other: (B, chunks * tokens, width). A prompt is read in `chunks` pieces, of which the
    /// last may be empty, and is cut off where it is longer.
    ///
    /// # Errors
    /// A tokenizer that does not belong to the model; a device that fails.
    pub fn encode(&mut self, prompts: &[&str], chunks: usize) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(prompts.len() * chunks * self.shape().iter().product::<usize>());
        for prompt in prompts {
            let mut ids = self.reader.ids(prompt)?;
            ids.resize(chunks, self.reader.ids("")?.swap_remove(0));
            for ids in ids {
                out.extend(self.context(&ids)?);
            }
        }
        Ok(out)
    }

    /// The context of one run.
    fn context(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let added = |id: &u32| self.reader.vectors.get(id);
        // Those that were added have no row in the table.
        let rows: Vec<u32> = ids.iter().map(|id| if added(id).is_some() { 0 } else { *id }).collect();
        let mut tokens = embed(&self.config, &self.checkpoint, "", &rows)?;
        for (id, row) in ids.iter().zip(tokens.chunks_exact_mut(self.config.hidden_size())) {
            if let Some(vector) = added(id) {
                row.copy_from_slice(vector);
            }
        }
        let plan = self.part.plan()?;
        plan.write("tokens", &tokens)?;
        plan.run()?;
        plan.read("context")
    }
}

/// What a text encoder reads of prompts: its tokenizer, and words that were added to it, without its weights.
pub struct PromptReader {
    tokenizer: Tokenizer,
    known: usize,
    /// Added words of several tokens, and these.
    words: Vec<(String, String)>,
    /// The vectors of added tokens.
    vectors: HashMap<u32, Vec<f32>>,
}

impl PromptReader {
    /// That of a Stable Diffusion.
    ///
    /// # Errors
    /// A missing or broken file.
    pub fn of(model: &Model) -> Result<PromptReader> {
        PromptReader::new(Tokenizer::open(&model.parts.tokenizer)?, &model.text, &model.parts.words)
    }

    /// A reader of these parts; prompts may use `words`.
    ///
    /// # Errors
    /// A tokenizer without padding; a word that cannot be a token.
    pub fn new(mut tokenizer: Tokenizer, config: &TextConfig, words: &[Inversion]) -> Result<PromptReader> {
        let (mut several, mut vectors) = (vec![], HashMap::new());
        for (name, word) in words.iter().flat_map(|word| word.names.iter().map(move |name| (name, word))) {
            let mut tokens = vec![];
            for (i, vector) in word.vectors.iter().enumerate() {
                // As diffusers calls them.
                let token = if i == 0 { name.clone() } else { format!("{name}_{i}") };
                let id = tokenizer.add(&token).with_context(|| format!("{name:?} cannot be a token"))?;
                vectors.insert(id, vector.clone());
                tokens.push(token);
            }
            if tokens.len() > 1 {
                several.push((name.clone(), tokens.join(" ")));
            }
        }
        tokenizer.pad_to(config.positions)?;
        Ok(PromptReader { tokenizer, known: config.vocab_size, words: several, vectors })
    }

    /// A prompt with all tokens of the words that were added.
    fn spelled<'p>(&self, prompt: &'p str) -> Cow<'p, str> {
        let spell =
            |text: Cow<'p, str>, (word, tokens): &(String, String)| match replaced(&text, word, tokens) {
                Some(text) => Cow::Owned(text),
                None => text,
            };
        self.words.iter().fold(prompt.into(), spell)
    }

    /// Tokens of a prompt, all of which the encoder knows: for each piece that it reads at once.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot encode, or of tokens that the encoder does not know.
    pub fn ids(&self, prompt: &str) -> Result<Vec<Vec<u32>>> {
        let ids = self.tokenizer.chunks(&self.spelled(prompt))?;
        let unknown = |id: &&u32| **id as usize >= self.known && !self.vectors.contains_key(*id);
        if let Some(id) = ids.iter().flatten().find(unknown) {
            bail!("{}: token {id} of {prompt:?}; the text encoder has {}", self.tokenizer.name(), self.known);
        }
        Ok(ids)
    }

    /// The end of a prompt that does not fit, and so does not reach the image; empty for most.
    ///
    /// # Errors
    /// As [`PromptReader::ids`].
    pub fn lost(&self, prompt: &str) -> Result<String> {
        self.ids(prompt)?;
        Ok(self.tokenizer.lost(&self.spelled(prompt))?.to_string())
    }
}

/// `text` with `tokens` for each `word` in it, in whatever case; nothing where there is none.
fn replaced(text: &str, word: &str, tokens: &str) -> Option<String> {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut out, mut rest, mut found) = (String::new(), text, false);
    while let Some(c) = rest.chars().next() {
        let fits = rest.get(..word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word))
            && !is_word(out.chars().last())
            && !is_word(rest[word.len()..].chars().next());
        let (taken, put) = if fits { (word.len(), tokens) } else { (c.len_utf8(), &rest[..c.len_utf8()]) };
        out.push_str(put);
        rest = &rest[taken..];
        found |= fits;
    }
    found.then_some(out)
}

/// CLIP on a device: embeddings of images and texts, length 1, whose products are their cosines.
pub struct ClipEmbedder {
    config: ClipConfig,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    checkpoint: Rc<Checkpoint>,
    images: Part,
    texts: Part,
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
    /// Opens the folder of a `CLIPModel` with its tokenizer and what it says of images; matrices are kept as `dtype`.
    ///
    /// # Errors
    /// A missing or broken file; a configuration that is not supported.
    pub fn open(gpu: &Gpu, folder: &Folder, dtype: DType) -> Result<ClipEmbedder> {
        let config = Config::of(folder)?;
        if config.class()? != "CLIPModel" {
            return Err(config.unsupported("architectures", config.class()?));
        }
        ClipEmbedder::new(
            gpu,
            &config,
            Preprocess::open(folder)?,
            folder.weights()?,
            Tokenizer::open(folder)?,
            dtype,
        )
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
        let (size, length, hidden) =
            (config.vision.image_size, config.text.positions, config.text.hidden_size());
        tokenizer.pad_to(length)?;
        check_table(&config.text, &checkpoint, "text_model.")?;
        let checkpoint = Rc::new(checkpoint);
        let recorded = config.clone();
        let images = Part::open(gpu, dtype, &checkpoint, move |w| {
            let config = &recorded;
            let pixels = w.graph().input("pixels", &[BATCH, size, size, 3], DType::F32);
            let hidden = clip::vision_model(&w.sub("vision_model"), &config.vision, pixels);
            let features = clip::image_features(w, config, hidden);
            w.graph().output("features", features);
            w.graph().output("embeds", clip::normalize(w.graph(), features));
        })?;
        let recorded = config.clone();
        let texts = Part::open(gpu, dtype, &checkpoint, move |w| {
            let config = &recorded;
            let tokens = w.graph().input("tokens", &[BATCH, length, hidden], DType::F32);
            let end = w.graph().input("end", &[BATCH, 1, length], DType::F32);
            let states = clip::text_model(&w.sub("text_model"), &config.text, tokens);
            w.graph().output("embeds", clip::text_embeds(w, config, states, end));
        })?;
        Ok(ClipEmbedder { config, preprocess, tokenizer, checkpoint, images, texts })
    }

    /// What the two towers take: of images, of texts.
    pub fn needs(&self) -> [Needs; 2] {
        [self.images.needs(), self.texts.needs()]
    }

    /// Floating point operations of an image's embedding.
    pub fn flops_of_an_image(&self) -> f64 {
        self.images.needs().flops / BATCH as f64
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
        let plan = self.images.plan()?;
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
        let plan = self.texts.plan()?;
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
