//! CLIP (Radford et al. 2021): a text and an image tower whose embeddings can be compared, and the text encoders of Stable
//! Diffusion, which are the text tower without its last step.

use crate::core::{DType, Graph, Tensor, Weights};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Attention, Conv, Epilogue};
use anyhow::{Result, bail};

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
    fn record(&self, w: &Weights, mut x: Tensor, attention: Attention) -> Tensor {
        let (g, [b, t]) = (w.graph(), [x.dim(0), x.dim(1)]);
        x = nn::activations(w, x, [self.hidden, self.intermediate]);
        let heads = [b, t, self.heads, self.hidden / self.heads];
        for i in 0..self.layers {
            let name = format!("layers.{i}");
            let (w, _scope) = (w.sub(&name), g.scope(&name));
            let attn = w.sub("self_attn");
            let y = nn::layer_norm(&w.sub("layer_norm1"), x, self.eps);
            let [q, k, v] = nn::linears(&attn, ["q_proj", "k_proj", "v_proj"], y, self.hidden)
                .map(|y| g.reshape(y, &heads));
            let y = g.reshape(g.attention(q, k, v, attention), &[b, t, self.hidden]);
            x = nn::linear_with(&attn.sub("out_proj"), y, self.hidden, Epilogue::plus(x));
            let y = nn::layer_norm(&w.sub("layer_norm2"), x, self.eps);
            let y = nn::linear_with(&w.sub("mlp.fc1"), y, self.intermediate, Epilogue::act(self.act));
            x = nn::linear_with(&w.sub("mlp.fc2"), y, self.hidden, Epilogue::plus(x));
        }
        g.to(x, DType::F32)
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

    /// 1 at the token that stands for each text of `length` tokens, else 0: what [`text_embeds`] takes as `end`.
    pub fn end_mask(&self, ids: &[u32], length: usize) -> Vec<f32> {
        let mut mask = vec![0.0; ids.len()];
        for (ids, mask) in ids.chunks_exact(length).zip(mask.chunks_exact_mut(length)) {
            mask[self.end_of_text(ids)] = 1.0;
        }
        mask
    }
}

/// The text tower: rows of the token table (B, T, hidden) -> last hidden state, after its norm. What Stable Diffusion attends
/// to, padding included.
pub fn text_model(w: &Weights, config: &TextConfig, tokens: Tensor) -> Tensor {
    let g = w.graph();
    let _scope = g.scope("text_model");
    let positions = w.sub("embeddings.position_embedding").unpacked();
    let positions = positions.get("weight", &[config.positions, config.tower.hidden]);
    let x = g.add(tokens, g.slice(positions, 0, 0, tokens.dim(1)));
    let causal = Attention { causal: true, ..Attention::default() };
    let x = config.tower.record(&w.sub("encoder"), x, causal);
    nn::layer_norm(&w.sub("final_layer_norm"), x, config.tower.eps)
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
pub fn vision_model(w: &Weights, config: &VisionConfig, pixels: Tensor) -> Tensor {
    let g = w.graph();
    let _scope = g.scope("vision_model");
    let (hidden, eps, batch) = (config.tower.hidden, config.tower.eps, pixels.dim(0));
    let (patch, side) = (config.patch_size, config.image_size / config.patch_size);
    let embeddings = w.sub("embeddings");
    // Pixels at the right and the bottom that fill no patch are ignored.
    let whole = side * patch;
    let pixels = (1..3).fold(pixels, |x, d| if x.dim(d) > whole { g.slice(x, d, 0, whole) } else { x });
    let conv = Conv::strided(patch, patch).padded([0; 4]);
    let x = nn::conv2d_no_bias(&embeddings.sub("patch_embedding"), pixels, hidden, conv);
    let x = g.reshape(x, &[batch, side * side, hidden]);
    let class = g.expand(embeddings.get("class_embedding", &[hidden]), &[batch, 1, hidden]);
    let x = g.concat(&[class, x], 1);
    let positions = embeddings.sub("position_embedding").unpacked();
    let positions = positions.get("weight", &[side * side + 1, hidden]);
    let x = nn::layer_norm(&w.sub("pre_layrnorm"), g.add(x, positions), eps);
    config.tower.record(&w.sub("encoder"), x, Attention::default())
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
pub fn normalize(g: &Graph, x: Tensor) -> Tensor {
    g.div(x, g.sqrt(g.sum(g.mul(x, x), &[1])))
}

/// Embeddings of images (B, projection), of any length, from what [`vision_model`] returns.
pub fn image_features(w: &Weights, config: &ClipConfig, hidden: Tensor) -> Tensor {
    let g = w.graph();
    let class = g.reshape(g.slice(hidden, 1, 0, 1), &[hidden.dim(0), hidden.last()]);
    let y = nn::layer_norm(&w.sub("vision_model.post_layernorm"), class, config.vision.tower.eps);
    nn::linear_no_bias(&w.sub("visual_projection"), y, config.projection)
}

/// Embeddings of texts (B, projection), length 1, from what [`text_model`] returns. `end` (B, 1, T): [`TextConfig::end_mask`].
pub fn text_embeds(w: &Weights, config: &ClipConfig, hidden: Tensor, end: Tensor) -> Tensor {
    let g = w.graph();
    let pooled = g.reshape(g.matmul(end, hidden), &[hidden.dim(0), hidden.last()]);
    normalize(g, nn::linear_no_bias(&w.sub("text_projection"), pooled, config.projection))
}

/// The weights of a text encoder under today's names: older files begin each with `text_model.`.
pub fn modern_names(checkpoint: Checkpoint) -> Checkpoint {
    checkpoint.rename(|name| Some(name.strip_prefix("text_model.").unwrap_or(name).to_string()))
}
