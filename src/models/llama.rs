//! Language models of the Llama family (Touvron et al. 2023) and Qwen2: forward in steps over a cache of keys and values that
//! stays on the device.

use crate::core::{DType, Init, Tensor, Weights};
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Epilogue, Matmul};
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// A model as its config.json describes it.
#[derive(Clone, Debug)]
pub struct LlamaConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Longest text, in tokens.
    pub positions: usize,
    pub(crate) hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    pub(crate) head_dim: usize,
    eps: f32,
    /// Whether the embeddings are the head's matrix as well.
    pub(crate) tied: bool,
    /// Biases of q, k and v; of the projection behind attention; of the MLP.
    qkv_bias: bool,
    out_bias: bool,
    mlp_bias: bool,
    /// Angle by which each pair of columns turns from one token to the next.
    frequencies: Vec<f32>,
}

impl LlamaConfig {
    /// Reads the configuration of a `LlamaForCausalLM` or `Qwen2ForCausalLM`.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<LlamaConfig> {
        let class = config.class()?;
        let qwen = match class.as_str() {
            "LlamaForCausalLM" => false,
            "Qwen2ForCausalLM" => true,
            _ => return Err(config.unsupported("architectures", class)),
        };
        config.only("hidden_act", &[json!("silu")])?;
        config.only("use_sliding_window", &[json!(false)])?;
        config.only("rope_interleaved", &[json!(false)])?;
        config.only("partial_rotary_factor", &[json!(1)])?;
        if let Some(kind) =
            config.strs("layer_types", &["full_attention"])?.iter().find(|k| *k != "full_attention")
        {
            return Err(config.unsupported("layer_types", kind.as_str()));
        }
        let hidden = config.usize("hidden_size", None)?;
        let heads = config.usize("num_attention_heads", None)?;
        let kv_heads = config.usize("num_key_value_heads", heads)?;
        let head_dim = config.usize("head_dim", (hidden / heads).max(1))?;
        if heads % kv_heads != 0 {
            bail!(
                "{}: num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}",
                config.name()
            );
        }
        if head_dim % 2 != 0 {
            bail!("{}: head_dim = {head_dim} is odd, and rotary embedding turns pairs", config.name());
        }
        let bias = !qwen && config.bool("attention_bias", false)?;
        Ok(LlamaConfig {
            vocab_size: config.usize("vocab_size", None)?,
            positions: config.usize("max_position_embeddings", if qwen { 32768 } else { 2048 })?,
            hidden,
            intermediate: config.usize("intermediate_size", None)?,
            layers: config.count("num_hidden_layers", None, 256)?,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive("rms_norm_eps", 1e-6)?,
            tied: config.bool("tie_word_embeddings", false)?,
            qkv_bias: qwen || bias,
            out_bias: bias,
            mlp_bias: !qwen && config.bool("mlp_bias", false)?,
            frequencies: frequencies(config, head_dim)?,
        })
    }

    /// Cosines and sines of the angles at positions `start .. start + n`: (n, head_dim / 2) each.
    pub fn rotations(&self, start: usize, n: usize) -> (Vec<f32>, Vec<f32>) {
        // f32 angles, as the models were trained with.
        let angles = (start..start + n).flat_map(|p| self.frequencies.iter().map(move |f| p as f32 * f));
        angles.map(|a| (a.cos(), a.sin())).unzip()
    }
}

/// Rotary frequencies theta^(-2i/d), slowed down for long contexts as `rope_scaling` (or the newer `rope_parameters`) says.
fn frequencies(config: &Config, head_dim: usize) -> Result<Vec<f32>> {
    let newer = config.get("rope_parameters").is_some();
    let key = if newer { "rope_parameters" } else { "rope_scaling" };
    let rope = config.sub(key)?;
    let theta = if newer { rope.f64("rope_theta", 10000.0)? } else { config.f64("rope_theta", 10000.0)? };
    let plain = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
    let type_key = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    let scaled: Vec<f64> = match rope.str(type_key, "default")?.as_str() {
        "default" => plain.collect(),
        "linear" => {
            let factor = rope.f64("factor", None)?;
            plain.map(|f| f / factor).collect()
        }
        "llama3" => {
            // Waves much shorter than the original context stay, much longer ones are stretched, and those between blend.
            let factor = rope.f64("factor", None)?;
            let (low, high) = (rope.f64("low_freq_factor", None)?, rope.f64("high_freq_factor", None)?);
            let context = rope.f64("original_max_position_embeddings", None)?;
            let scale = |f: f64| {
                let waves = context * f / std::f64::consts::TAU;
                let keep = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                keep * f + (1.0 - keep) * f / factor
            };
            plain.map(scale).collect()
        }
        other => return Err(rope.unsupported(type_key, other)),
    };
    if !scaled.iter().all(|f| f.is_finite()) {
        let rope = config.get(key).unwrap_or(&Value::Null);
        bail!("{}: {key} = {rope} gives no finite frequencies", config.name());
    }
    Ok(scaled.into_iter().map(|f| f as f32).collect())
}

/// The layers and the last norm for the next T tokens: their embeddings (T, hidden) -> hidden states (T, hidden). Keys and
/// values join the caches (states `cache.LAYER.k` and `.v`, of `context` rows) at row `at`. Inputs it asks for: `at` U32 (1),
/// `cos` and `sin` (T, head_dim / 2), `mask` (T, context), added to the scores.
pub fn llama(w: &Weights, c: &LlamaConfig, tokens: Tensor, context: usize) -> Tensor {
    let (g, t) = (w.graph(), tokens.dim(0));
    let at = g.input("at", &[1], DType::U32);
    let [cos, sin] = ["cos", "sin"].map(|name| g.input(name, &[t, c.head_dim / 2], DType::F32));
    let mask = g.input("mask", &[t, context], DType::F32);
    let (heads, kv, d) = (c.heads, c.kv_heads, c.head_dim);
    let group = heads / kv;
    let mut x = tokens;
    for i in 0..c.layers {
        let _scope = g.scope(&format!("layers.{i}"));
        let layer = w.sub(format!("model.layers.{i}"));
        let attn = layer.sub("self_attn");
        let y = nn::rms_norm(&layer.sub("input_layernorm"), x, c.eps);
        // (T, heads * D) -> (1, T, heads, D)
        let project = |name: &str, heads: usize| {
            let y = linear(&attn.sub(name), y, heads * d, c.qkv_bias, Epilogue::default());
            g.reshape(y, &[1, t, heads, d])
        };
        // (1, T, heads, D) -> (heads, T, D)
        let by_head = |y: Tensor| g.permute(g.reshape(y, &[t, y.dim(2), d]), &[1, 0, 2]);
        let cached = |name: &str, rows| {
            let cache = g.state(&format!("cache.{i}.{name}"), &[kv, context, d], DType::F32, Init::Zeros);
            g.write_rows(cache, rows, at)
        };
        let q = by_head(g.rope(project("q_proj", heads), cos, sin));
        let q = g.scale(q, 1.0 / (d as f32).sqrt());
        let k = cached("k", by_head(g.rope(project("k_proj", kv), cos, sin)));
        let v = cached("v", by_head(project("v_proj", kv)));
        // Neighbouring heads of q share a head of k and v: their rows make one taller matrix.
        let q = g.reshape(q, &[kv, group * t, d]);
        let scores = g.matmul_with(q, k, Matmul { transpose_b: true, ..Default::default() });
        let scores = g.add(g.reshape(scores, &[kv, group, t, context]), mask);
        let p = g.reshape(g.softmax(scores), &[kv, group * t, context]);
        let y = g.permute(g.reshape(g.matmul(p, v), &[heads, t, d]), &[1, 0, 2]);
        let y = g.reshape(y, &[t, heads * d]);
        x = linear(&attn.sub("o_proj"), y, c.hidden, c.out_bias, Epilogue::plus(x));
        let y = nn::rms_norm(&layer.sub("post_attention_layernorm"), x, c.eps);
        let mlp =
            |name: &str, y, out, epilogue| linear(&layer.sub("mlp").sub(name), y, out, c.mlp_bias, epilogue);
        let gate = mlp("gate_proj", y, c.intermediate, Epilogue::act(Act::Silu));
        let y = g.mul(gate, mlp("up_proj", y, c.intermediate, Epilogue::default()));
        x = mlp("down_proj", y, c.hidden, Epilogue::plus(x));
    }
    nn::rms_norm(&w.sub("model.norm"), x, c.eps)
}

/// A linear layer that has a bias in some models of the family.
fn linear(w: &Weights, x: Tensor, out: usize, bias: bool, epilogue: Epilogue) -> Tensor {
    match bias {
        true => nn::linear_with(w, x, out, epilogue),
        false => w.graph().linear_with(x, w.get("weight", &[out, x.last()]), epilogue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<LlamaConfig> {
        let keys = r#""hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 512"#;
        LlamaConfig::new(&Config::parse("config.json", &format!("{{{keys}, {text}}}"))?)
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let error = |text: &str| config(text).unwrap_err().to_string();
        let llama = r#""architectures": ["LlamaForCausalLM"]"#;
        assert_eq!(
            error(&format!(r#"{llama}, "rope_scaling": {{"rope_type": "yarn", "factor": 4}}"#)),
            r#"config.json: rope_scaling: rope_type = "yarn" is not supported"#
        );
        assert_eq!(
            error(&format!(r#"{llama}, "hidden_act": "gelu""#)),
            r#"config.json: hidden_act = "gelu" is not supported"#
        );
        assert!(error(r#""architectures": ["GPT2LMHeadModel"]"#).contains("GPT2LMHeadModel"));
        assert!(error(&format!(r#"{llama}, "num_key_value_heads": 4"#)).contains("num_key_value_heads = 4"));
        let qwen = r#""architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true"#;
        assert_eq!(error(qwen), "config.json: use_sliding_window = true is not supported");
        assert!(config(r#""architectures": ["Qwen2ForCausalLM"]"#).unwrap().qkv_bias);
    }

    #[test]
    fn frequencies_of_old_and_new_files() {
        let of = |text: &str| {
            config(&format!(r#""architectures": ["LlamaForCausalLM"], {text}"#)).unwrap().frequencies
        };
        let old = of(r#""rope_theta": 100000.0, "rope_scaling": null"#);
        assert_eq!(old, of(r#""rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}"#));
        assert_eq!((old.len(), old[0]), (4, 1.0));
        assert!((old[1] - 100000f32.powf(-0.25)).abs() < 1e-8);
        let linear = of(r#""rope_theta": 100000.0, "rope_scaling": {"type": "linear", "factor": 4.0}"#);
        assert!(linear.iter().zip(&old).all(|(a, b)| (a - b / 4.0).abs() < 1e-8));
        let three = of(
            r#""rope_theta": 100000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 256}"#,
        );
        // 256 tokens hold 41 waves of the first pair, 2.3 of the second, 0.13 of the third.
        assert_eq!((three[0], three[2]), (old[0], old[2] / 8.0));
        assert!(three[1] < old[1] && three[1] > old[1] / 8.0);
    }
}
