//! CLIP (Radford et al. 2021): a text and an image tower whose embeddings can be compared, and the text encoders of Stable
//! Diffusion, which are the text tower without its last step.

use super::config::Config;
use crate::core::{DType, Gpu, Graph, Plan, Store, Tensor, Weights};
use crate::data::checkpoint::Checkpoint;
use crate::data::folder::Folder;
use crate::data::image::{Filter, Rgb};
use crate::data::tokenizer::Tokenizer;
use crate::nn;
use crate::ops::{Act, Attention, Conv, Epilogue, Matmul};
use crate::verify::golden::{Comparison, Golden};
use anyhow::{Result, bail};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;

/// A stack of transformer layers.
#[derive(Clone, Debug)]
struct Tower {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    act: Act,
    eps: f32,
}

impl Tower {
    fn new(config: &Config, hidden: usize, intermediate: usize, heads: usize) -> Result<Tower> {
        let tower = Tower {
            hidden: config.usize("hidden_size", hidden)?,
            intermediate: config.usize("intermediate_size", intermediate)?,
            layers: config.count("num_hidden_layers", 12, 256)?,
            heads: config.usize("num_attention_heads", heads)?,
            act: match config.str("hidden_act", "quick_gelu")?.as_str() {
                "quick_gelu" => Act::QuickGelu,
                "gelu" => Act::Gelu,
                other => return Err(config.unsupported("hidden_act", other)),
            },
            eps: config.positive("layer_norm_eps", 1e-5)?,
        };
        if tower.hidden % tower.heads != 0 {
            let (heads, hidden) = (tower.heads, tower.hidden);
            bail!("{}: num_attention_heads = {heads} does not divide hidden_size = {hidden}", config.name());
        }
        Ok(tower)
    }

    /// The layers `layers.0 ..` below `w`: x (B, T, hidden) -> the same shape.
    fn record(&self, g: &Graph, w: &Weights, mut x: Tensor, causal: bool) -> Tensor {
        let [b, t] = [x.dim(0), x.dim(1)];
        let heads = [b, t, self.heads, self.hidden / self.heads];
        for i in 0..self.layers {
            let _scope = g.scope(&format!("layers.{i}"));
            let w = w.sub(format!("layers.{i}"));
            let attn = w.sub("self_attn");
            let y = nn::layer_norm(g, &w.sub("layer_norm1"), x, self.eps);
            let [q, k, v] = ["q_proj", "k_proj", "v_proj"]
                .map(|p| g.reshape(nn::linear(g, &attn.sub(p), y, self.hidden, true), &heads));
            let y = g.attention(q, k, v, Attention { causal, ..Default::default() });
            let y = g.reshape(y, &[b, t, self.hidden]);
            let residual = |x| Epilogue { residual: Some(x), ..Default::default() };
            x = nn::linear_with(g, &attn.sub("out_proj"), y, self.hidden, true, residual(x));
            let y = nn::layer_norm(g, &w.sub("layer_norm2"), x, self.eps);
            let act = Epilogue { act: self.act, ..Default::default() };
            let y = nn::linear_with(g, &w.sub("mlp.fc1"), y, self.intermediate, true, act);
            x = nn::linear_with(g, &w.sub("mlp.fc2"), y, self.hidden, true, residual(x));
        }
        x
    }
}

/// The text tower, as `CLIPTextModel` and the `text_config` of `CLIPModel` describe it.
#[derive(Clone, Debug)]
pub struct TextConfig {
    tower: Tower,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Longest text, in tokens.
    pub positions: usize,
    eos_token_id: u32,
}

impl TextConfig {
    /// Reads the configuration of a text tower; of a whole `CLIPModel`, its `text_config`.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<TextConfig> {
        if config.get("text_config").is_some() {
            return TextConfig::new(&config.sub("text_config")?);
        }
        Ok(TextConfig {
            tower: Tower::new(config, 512, 2048, 8)?,
            vocab_size: config.usize("vocab_size", 49408)?,
            positions: config.usize("max_position_embeddings", 77)?,
            eos_token_id: config.u32("eos_token_id", 49407)?,
        })
    }

    /// Width of the context.
    pub fn hidden_size(&self) -> usize {
        self.tower.hidden
    }

    /// The token whose state stands for the text: the first that ends it. Early configurations say 2 there, which is no id
    /// of theirs, and mean the largest id.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        let end = if self.eos_token_id == 2 { ids.iter().max().copied() } else { Some(self.eos_token_id) };
        ids.iter().position(|&id| Some(id) == end).unwrap_or(0)
    }

    /// Rows of the token table for `ids`, on the CPU: the table is larger than many devices let a kernel see.
    ///
    /// # Errors
    /// An id beyond the table; a checkpoint without it.
    pub fn embed(&self, checkpoint: &Checkpoint, prefix: &str, ids: &[u32]) -> Result<Vec<f32>> {
        let name = format!("{prefix}embeddings.token_embedding.weight");
        checkpoint.rows_f32(&name, ids, &[self.vocab_size, self.tower.hidden])
    }
}

/// The text tower: rows of the token table (B, T, hidden) -> last hidden state, after its norm. What Stable Diffusion attends
/// to, padding included.
pub fn text_model(g: &Graph, w: &Weights, config: &TextConfig, tokens: Tensor) -> Tensor {
    let _scope = g.scope("text_model");
    let positions = w.sub("embeddings.position_embedding").unpacked();
    let positions = positions.get("weight", &[config.positions, config.tower.hidden]);
    let x = g.add(tokens, g.slice(positions, 0, 0, tokens.dim(1)));
    let x = config.tower.record(g, &w.sub("encoder"), x, true);
    nn::layer_norm(g, &w.sub("final_layer_norm"), x, config.tower.eps)
}

/// The image tower, as the `vision_config` of `CLIPModel` describes it.
#[derive(Clone, Debug)]
pub struct VisionConfig {
    tower: Tower,
    /// Side of the square images.
    pub image_size: usize,
    patch_size: usize,
}

impl VisionConfig {
    /// Reads the configuration of an image tower.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<VisionConfig> {
        config.only("num_channels", &[3.into()])?;
        let vision = VisionConfig {
            tower: Tower::new(config, 768, 3072, 12)?,
            image_size: config.usize("image_size", 224)?,
            patch_size: config.usize("patch_size", 32)?,
        };
        if vision.patch_size > vision.image_size {
            let (patch, size) = (vision.patch_size, vision.image_size);
            bail!("{}: patch_size = {patch} is more than image_size = {size}", config.name());
        }
        Ok(vision)
    }
}

/// The image tower: pixels (B, S, S, 3), normalised -> last hidden state (B, 1 + patches, hidden), before the last norm.
pub fn vision_model(g: &Graph, w: &Weights, config: &VisionConfig, pixels: Tensor) -> Tensor {
    let _scope = g.scope("vision_model");
    let (hidden, eps, batch) = (config.tower.hidden, config.tower.eps, pixels.dim(0));
    let (patch, side) = (config.patch_size, config.image_size / config.patch_size);
    let embeddings = w.sub("embeddings");
    // Pixels at the right and the bottom that fill no patch are not looked at.
    let whole = side * patch;
    let pixels = (1..3).fold(pixels, |x, d| if x.dim(d) > whole { g.slice(x, d, 0, whole) } else { x });
    let conv = Conv::strided(patch, 0);
    let x = nn::conv2d(g, &embeddings.sub("patch_embedding"), pixels, hidden, patch, conv, false);
    let x = g.reshape(x, &[batch, side * side, hidden]);
    let class = g.expand(embeddings.get("class_embedding", &[hidden]), &[batch, 1, hidden]);
    let x = g.concat(&[class, x], 1);
    let positions = embeddings.sub("position_embedding").unpacked();
    let positions = positions.get("weight", &[side * side + 1, hidden]);
    let x = nn::layer_norm(g, &w.sub("pre_layrnorm"), g.add(x, positions), eps);
    config.tower.record(g, &w.sub("encoder"), x, false)
}

/// Both towers, as `CLIPModel`.
#[derive(Clone, Debug)]
pub struct ClipConfig {
    /// The text tower.
    pub text: TextConfig,
    /// The image tower.
    pub vision: VisionConfig,
    /// Width of the embeddings.
    pub projection: usize,
}

impl ClipConfig {
    /// Reads the configuration of a `CLIPModel`.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<ClipConfig> {
        Ok(ClipConfig {
            text: TextConfig::new(&config.sub("text_config")?)?,
            vision: VisionConfig::new(&config.sub("vision_config")?)?,
            projection: config.usize("projection_dim", 512)?,
        })
    }
}

/// Rows of x (B, C) scaled to length 1.
fn normalize(g: &Graph, x: Tensor) -> Tensor {
    g.div(x, g.sqrt(g.sum(g.mul(x, x), &[1])))
}

/// Embedding of images (B, projection) from what [`vision_model`] returns.
fn image_features(g: &Graph, w: &Weights, config: &ClipConfig, hidden: Tensor) -> Tensor {
    let class = g.reshape(g.slice(hidden, 1, 0, 1), &[hidden.dim(0), hidden.last()]);
    let y = nn::layer_norm(g, &w.sub("vision_model.post_layernorm"), class, config.vision.tower.eps);
    nn::linear(g, &w.sub("visual_projection"), y, config.projection, false)
}

/// Embedding of texts (B, projection), length 1, from what [`text_model`] returns. `end` (B, 1, T) is 1 at the token that
/// ends each text, else 0.
fn text_embeds(g: &Graph, w: &Weights, config: &ClipConfig, hidden: Tensor, end: Tensor) -> Tensor {
    let pooled = g.reshape(g.matmul(end, hidden), &[hidden.dim(0), hidden.last()]);
    normalize(g, nn::linear(g, &w.sub("text_projection"), pooled, config.projection, false))
}

/// What [`text_embeds`] takes as `end`.
fn end_mask(config: &TextConfig, ids: &[u32], length: usize) -> Vec<f32> {
    let mut mask = vec![0.0; ids.len()];
    for (ids, mask) in ids.chunks_exact(length).zip(mask.chunks_exact_mut(length)) {
        mask[config.end_of_text(ids)] = 1.0;
    }
    mask
}

/// The weights of a text encoder without the prefix that older files have.
fn without_prefix(checkpoint: Checkpoint) -> Checkpoint {
    checkpoint.rename(|name| Some(name.strip_prefix("text_model.").unwrap_or(name).to_string()))
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
        let checkpoint = without_prefix(checkpoint);
        let graph = Graph::new(gpu.caps());
        let w = Weights::new(&graph, dtype);
        let tokens = graph.input("tokens", &[1, config.positions, config.hidden_size()], DType::F32);
        graph.output("context", text_model(&graph, &w, &config, tokens));
        let mut store = Store::new(gpu);
        store.load(&checkpoint, &w)?;
        let plan = Plan::new(gpu, graph, &store)?;
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
            self.plan.write("tokens", &self.config.embed(&self.checkpoint, "", &ids)?)?;
            self.plan.run()?;
            out.extend(self.plan.read("context")?);
        }
        Ok(out)
    }
}

/// What happens to an image before the image tower sees it, as preprocessor_config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// The shorter side becomes this long.
    shortest: usize,
    /// Side of the square cut out of the middle.
    crop: usize,
    filter: Filter,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Preprocess {
    /// Reads a preprocessor_config.json; absent keys are those of OpenAI's CLIP.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<Preprocess> {
        for key in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
            config.only(key, &[true.into()])?;
        }
        if (config.f64("rescale_factor", 1.0 / 255.0)? - 1.0 / 255.0).abs() > 1e-9 {
            return Err(config.unsupported("rescale_factor", config.f64("rescale_factor", None)?));
        }
        const MOST: usize = 8192;
        // A number, {"shortest_edge": n}, or a square given by both of its sides.
        let side = |key: &str| match config.get(key) {
            Some(Value::Object(_)) => {
                let size = config.sub(key)?;
                let square = size.get("height").is_some() && size.get("height") == size.get("width");
                match (size.get("shortest_edge"), square) {
                    (Some(_), _) => size.count("shortest_edge", None, MOST),
                    (None, true) if key == "crop_size" => size.count("height", None, MOST),
                    _ => Err(config.unsupported(key, config.get(key).cloned())),
                }
            }
            _ => config.count(key, 224, MOST),
        };
        let three = |key: &str, default: [f64; 3]| {
            let values = config.get(key).cloned().unwrap_or(json!(default));
            let numbers: Option<Vec<f32>> =
                values.as_array().and_then(|v| v.iter().map(|v| v.as_f64().map(|f| f as f32)).collect());
            let numbers: Option<[f32; 3]> = numbers.and_then(|n| n.try_into().ok());
            numbers.filter(|n| n.iter().all(|v| v.is_finite())).ok_or_else(|| config.unsupported(key, values))
        };
        let preprocess = Preprocess {
            shortest: side("size")?,
            crop: side("crop_size")?,
            filter: match config.u32("resample", 3)? {
                2 => Filter::Bilinear,
                3 => Filter::Bicubic,
                other => return Err(config.unsupported("resample", other)),
            },
            mean: three("image_mean", [0.48145466, 0.4578275, 0.40821073])?,
            std: three("image_std", [0.26862954, 0.26130258, 0.27577711])?,
        };
        if preprocess.crop > preprocess.shortest {
            let (crop, size) = (preprocess.crop, preprocess.shortest);
            bail!("{}: crop_size = {crop} is more than size = {size}", config.name());
        }
        if preprocess.std.contains(&0.0) {
            bail!("{}: image_std holds a zero", config.name());
        }
        Ok(preprocess)
    }

    /// Pixels (crop, crop, 3) of an image, normalised.
    pub fn pixels(&self, image: &Rgb) -> Vec<f32> {
        let image = middle(image);
        let (w, h) = (image.width, image.height);
        let long = |long: usize, short: usize| self.shortest * long / short;
        let (width, height) = if w <= h { (self.shortest, long(h, w)) } else { (long(w, h), self.shortest) };
        let image = image.resize(width, height, self.filter);
        let image = image.crop((width - self.crop) / 2, (height - self.crop) / 2, self.crop, self.crop);
        let normalise = |(i, v): (usize, &u8)| (f32::from(*v) / 255.0 - self.mean[i % 3]) / self.std[i % 3];
        image.data.iter().enumerate().map(normalise).collect()
    }
}

/// Of an image that is more than `LONGEST` times as long as wide, no more than that around its middle: the rest would be resized,
/// to a size that knows no bounds, only to be cut off.
fn middle(image: &Rgb) -> Cow<'_, Rgb> {
    const LONGEST: usize = 8;
    let most = LONGEST * image.width.min(image.height);
    // As much is cut from both ends, so that the middle stays where it is.
    let ends = |side: usize| side.saturating_sub(most) / 2;
    let (left, top) = (ends(image.width), ends(image.height));
    match left + top {
        0 => Cow::Borrowed(image),
        _ => Cow::Owned(image.crop(left, top, image.width - 2 * left, image.height - 2 * top)),
    }
}

/// CLIP on a device: embeddings of images and texts, length 1, whose products are their cosines.
pub struct ClipEmbedder {
    config: ClipConfig,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    checkpoint: Checkpoint,
    store: Store,
    dtype: DType,
    /// Made when first asked for.
    images: Option<Plan>,
    texts: Option<Plan>,
}

/// Images or texts that one run takes in.
const BATCH: usize = 8;

/// Embeddings of images, a row each.
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
        let store = Store::new(gpu);
        Ok(ClipEmbedder {
            config,
            preprocess,
            tokenizer,
            checkpoint,
            store,
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
            let g = Graph::new(self.store.gpu().caps());
            let w = Weights::new(&g, self.dtype);
            let pixels = g.input("pixels", &[BATCH, size, size, 3], DType::F32);
            let hidden = vision_model(&g, &w.sub("vision_model"), &self.config.vision, pixels);
            let features = image_features(&g, &w, &self.config, hidden);
            g.output("features", features);
            g.output("embeds", normalize(&g, features));
            self.store.load(&self.checkpoint, &w)?;
            self.images = Some(Plan::new(self.store.gpu(), g, &self.store)?);
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
            let g = Graph::new(self.store.gpu().caps());
            let w = Weights::new(&g, self.dtype);
            let tokens = g.input("tokens", &[BATCH, length, hidden], DType::F32);
            let end = g.input("end", &[BATCH, 1, length], DType::F32);
            let states = text_model(&g, &w.sub("text_model"), &self.config.text, tokens);
            g.output("embeds", text_embeds(&g, &w, &self.config, states, end));
            self.store.load(&self.checkpoint, &w)?;
            self.texts = Some(Plan::new(self.store.gpu(), g, &self.store)?);
        }
        let plan = self.texts.as_mut().expect("made above");
        let mut out = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            let mut ids = Vec::with_capacity(BATCH * length);
            for text in texts {
                ids.extend(self.tokenizer.encode(text)?);
            }
            let mut tokens = self.config.text.embed(&self.checkpoint, "text_model.", &ids)?;
            let mut end = end_mask(&self.config.text, &ids, length);
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

/// `kaleid verify`: CLIPTextModel.
///
/// # Errors
/// A golden that lacks what it should hold.
pub fn golden_text(golden: &Golden) -> Result<Vec<Comparison>> {
    let config = TextConfig::new(&golden.config)?;
    let ([batch, length], ids) = golden.ids("input_ids")?;
    let checkpoint = without_prefix(golden.weights()?);
    let g = Graph::new(golden.gpu.caps());
    let w = Weights::new(&g, DType::F32);
    let tokens = g.input("tokens", &[batch, length, config.hidden_size()], DType::F32);
    g.output("context", text_model(&g, &w, &config, tokens));
    let mut store = Store::new(&golden.gpu);
    store.load(&checkpoint, &w)?;
    let mut plan = Plan::new(&golden.gpu, g, &store)?;
    plan.write("tokens", &config.embed(&checkpoint, "", &ids)?)?;
    plan.run()?;
    Ok(vec![golden.compare("context", &plan.read("context")?)?])
}

/// `kaleid verify`: CLIPModel.
///
/// # Errors
/// A golden that lacks what it should hold.
pub fn golden(golden: &Golden) -> Result<Vec<Comparison>> {
    let config = ClipConfig::new(&golden.config)?;
    let ([batch, length], ids) = golden.ids("input_ids")?;
    let (image_shape, pixels) = golden.image("pixel_values")?;
    let checkpoint = golden.weights()?;
    let g = Graph::new(golden.gpu.caps());
    let w = Weights::new(&g, DType::F32);

    let images =
        vision_model(&g, &w.sub("vision_model"), &config.vision, g.input("pixels", &image_shape, DType::F32));
    g.output("vision_last_hidden_state", images);
    let images = normalize(&g, image_features(&g, &w, &config, images));
    g.output("image_embeds", images);

    let tokens = g.input("tokens", &[batch, length, config.text.hidden_size()], DType::F32);
    let texts = text_model(&g, &w.sub("text_model"), &config.text, tokens);
    g.output("text_last_hidden_state", texts);
    let end = g.input("end", &[batch, 1, length], DType::F32);
    let texts = text_embeds(&g, &w, &config, texts, end);
    g.output("text_embeds", texts);

    let cosines = g.matmul_with(images, texts, Matmul { transpose_b: true, ..Default::default() });
    g.output("logits_per_image", g.mul(cosines, g.exp(w.get("logit_scale", &[1]))));

    let mut store = Store::new(&golden.gpu);
    store.load(&checkpoint, &w)?;
    let mut plan = Plan::new(&golden.gpu, g, &store)?;
    plan.write("pixels", &pixels)?;
    plan.write("tokens", &config.text.embed(&checkpoint, "text_model.", &ids)?)?;
    plan.write("end", &end_mask(&config.text, &ids, length))?;
    plan.run()?;
    let outputs = [
        "vision_last_hidden_state",
        "text_last_hidden_state",
        "image_embeds",
        "text_embeds",
        "logits_per_image",
    ];
    outputs.iter().map(|name| golden.compare(name, &plan.read(name)?)).collect()
}
