//! Language models in GGUF: llama.cpp's keys and names as those of Hugging Face.

use crate::data::checkpoint::{Checkpoint, Patch};
use crate::data::config::Config;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Architectures, and the classes that they are.
const CLASSES: [(&str, &str); 4] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
];
/// Keys of an architecture, and those of config.json.
const KEYS: [(&str, &str); 10] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("attention.sliding_window", "sliding_window"),
];
/// Parts of a layer.
const LAYER: [(&str, &str); 13] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];

/// A language model's configuration and its weights under Hugging Face's names.
///
/// # Errors
/// A file of another architecture; keys that are missing.
pub fn open(file: Checkpoint) -> Result<(Config, Checkpoint)> {
    let (name, header) = (file.name().to_string(), file.header().clone());
    let Some(arch) = header.get("general.architecture").and_then(Value::as_str) else {
        bail!("{name}: no language model: it does not say its architecture");
    };
    let Some((_, class)) = CLASSES.iter().find(|(ours, _)| *ours == arch) else {
        let known: Vec<&str> = CLASSES.iter().map(|(arch, _)| *arch).collect();
        bail!("{name}: architecture {arch} is not supported: {} are", known.join(", "));
    };
    let config = config(&file, &header, arch, class).with_context(|| name.clone())?;
    let heads = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(1) as usize;
    let (q, kv) = (heads("num_attention_heads"), heads("num_key_value_heads"));
    let is_gemma = arch == "gemma3";
    let mut weights = file.rename(|name| renamed(name, is_gemma));
    if arch == "llama" {
        // Pairs of columns that turn together stand beside each other there; here in halves of a head.
        let rows: Vec<(String, usize)> = weights
            .names()
            .filter_map(|name| {
                let heads = if name.contains("q_proj") {
                    q
                } else if name.contains("k_proj") {
                    kv
                } else {
                    return None;
                };
                Some((name.to_string(), heads))
            })
            .collect();
        for (name, heads) in rows {
            let rows = weights.shape(&name).and_then(|shape| shape.first().copied()).unwrap_or(0);
            // Another shape is refused by the model.
            if heads == 0 || rows % (2 * heads) != 0 {
                continue;
            }
            let patch: Patch = Arc::new(move |values| halves_of_heads(values, rows, heads));
            weights.patch(name, patch);
        }
    }
    Ok((config, weights))
}

/// Rows (heads, d / 2, 2) as (heads, 2, d / 2).
fn halves_of_heads(values: &mut [f32], rows: usize, heads: usize) {
    let (d, width) = (rows / heads, values.len() / rows.max(1));
    let old = values.to_vec();
    for (row, out) in values.chunks_exact_mut(width.max(1)).enumerate() {
        let (head, i) = (row / d, row % d);
        let from = head * d + 2 * (i % (d / 2)) + i / (d / 2);
        out.copy_from_slice(&old[from * width..][..width]);
    }
}

fn renamed(name: &str, is_gemma: bool) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let whole = [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
    if let Some((_, ours)) = whole.iter().find(|(theirs, _)| *theirs == stem) {
        return Some(format!("{ours}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    let (_, ours) = LAYER.iter().find(|(theirs, _)| *theirs == part)?;
    let ours = if is_gemma && part == "ffn_norm" { "pre_feedforward_layernorm" } else { ours };
    Some(format!("model.layers.{layer}.{ours}.{kind}"))
}

fn config(file: &Checkpoint, header: &Map<String, Value>, arch: &str, class: &str) -> Result<Config> {
    let key = |name: &str| header.get(&format!("{arch}.{name}"));
    let mut config = Map::new();
    config.insert("architectures".into(), json!([class]));
    for (theirs, ours) in KEYS {
        // Some counts are lists, a number for each layer.
        let value = match key(theirs) {
            Some(Value::Array(list)) if list.windows(2).all(|pair| pair[0] == pair[1]) => list.first(),
            Some(Value::Array(_)) => {
                bail!("{arch}.{theirs} differs from layer to layer, which is not supported")
            }
            value => value,
        };
        config.extend(value.map(|value| (ours.to_string(), value.clone())));
    }
    let table = file.shape("token_embd.weight").context("no tensor token_embd.weight")?;
    config.insert("vocab_size".into(), json!(table.first()));
    config.insert("tie_word_embeddings".into(), json!(!file.contains("output.weight")));
    config.insert("norms_from_one".into(), json!(false));
    config.insert("attention_bias".into(), json!(file.contains("blk.0.attn_q.bias")));
    if let Some(kind) = key("rope.scaling.type").and_then(Value::as_str).filter(|kind| *kind != "none") {
        let factor = key("rope.scaling.factor").cloned().unwrap_or(json!(1.0));
        config.insert("rope_scaling".into(), json!({"rope_type": kind, "factor": factor}));
    }
    if file.contains("rope_freqs.weight") {
        config.insert("rope_factors".into(), json!(file.tensor("rope_freqs.weight")?.1));
    }
    Config::parse(file.name(), &Value::Object(config).to_string())
}
