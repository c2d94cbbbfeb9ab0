//! Language models of the Llama family (Touvron et al. 2023), Qwen2, Qwen3 and Gemma 3: forward in steps over a cache of keys and values
//! that stays on the device.

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
    act: Act,
    /// Queries and keys are normalised, head by head, before they are turned.
    qk_norm: bool,
    /// What queries are multiplied with.
    query_scale: f32,
    /// Gemma: what a file has as the weight of a norm is 1 less than it.
    norms_from_one: bool,
    /// Gemma: norms behind attention and MLP as well.
    sandwich: bool,
    /// Gemma: what embeddings are multiplied with.
    pub(crate) embedding_scale: f32,
    /// Layers that see the last tokens only; what they turn by.
    local: Option<Local>,
}

/// Layers with a window.
#[derive(Clone, Debug)]
struct Local {
    window: usize,
    /// Which layers those are.
    layers: Vec<bool>,
    frequencies: Vec<f32>,
}

impl LlamaConfig {
    /// Reads the configuration of a `LlamaForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM` or `Gemma3ForCausalLM`.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<LlamaConfig> {
        let class = config.class()?;
        let (qwen, qwen3, gemma) = match class.as_str() {
            "LlamaForCausalLM" => (false, false, false),
            "Qwen2ForCausalLM" => (true, false, false),
            "Qwen3ForCausalLM" => (false, true, false),
            "Gemma3ForCausalLM" => (false, false, true),
            _ => return Err(config.unsupported("architectures", class)),
        };
        let act = if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
        config.only(act.0, &[json!(act.1)])?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            config.only(key, &[Value::Null])?;
        }
        config.only("use_sliding_window", &[json!(false)])?;
        config.only("rope_interleaved", &[json!(false)])?;
        config.only("partial_rotary_factor", &[json!(1)])?;
        let layers = config.count("num_hidden_layers", None, 256)?;
        if let (false, Some(kind)) =
            (gemma, config.strs("layer_types", &["full_attention"])?.iter().find(|k| *k != "full_attention"))
        {
            return Err(config.unsupported("layer_types", kind.as_str()));
        }
        let hidden = config.usize("hidden_size", None)?;
        let heads = config.usize("num_attention_heads", None)?;
        let kv_heads = config.usize("num_key_value_heads", heads)?;
        let usual = if gemma {
            256
        } else if qwen3 {
            128
        } else {
            (hidden / heads).max(1)
        };
        let head_dim = config.usize("head_dim", usual)?;
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
            layers,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive("rms_norm_eps", 1e-6)?,
            tied: config.bool("tie_word_embeddings", gemma)?,
            qkv_bias: qwen || bias,
            out_bias: bias,
            mlp_bias: !qwen && config.bool("mlp_bias", false)?,
            frequencies: frequencies(config, head_dim, "full_attention")?,
            act: if gemma { Act::GeluTanh } else { Act::Silu },
            qk_norm: qwen3 || gemma,
            query_scale: 1.0 / config.positive("query_pre_attn_scalar", head_dim as f32)?.sqrt(),
            // llama.cpp adds it when it converts.
            norms_from_one: gemma && config.bool("norms_from_one", true)?,
            sandwich: gemma,
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            local: if gemma { Some(local(config, layers, head_dim)?) } else { None },
        })
    }

    /// What [`llama`] takes for the tokens at positions `start .. start + n`, of which attention sees the first `seen`, by the name of the input:
    /// of layers that see all tokens, and of those with a window where there are some. `mask` (n, seen) is 0 for what a token sees and else `unseen`;
    /// `cos` and `sin` (n, head_dim / 2) are those of its angles.
    pub fn positions(&self, start: usize, n: usize, seen: usize, unseen: f32) -> Vec<(String, Vec<f32>)> {
        let kinds = [("", Some((usize::MAX, &self.frequencies)))];
        let local = self.local.as_ref().map(|local| (local.window, &local.frequencies));
        let kinds = kinds.into_iter().chain([(LOCAL, local)]);
        let all =
            kinds.filter_map(|(kind, found)| Some((kind, found?))).map(|(kind, (window, frequencies))| {
                let mask = (start..start + n).flat_map(|i| {
                    (0..seen).map(move |j| if j <= i && i - j < window { 0.0 } else { unseen })
                });
                // f32 angles, as the models were trained with.
                let angles = (start..start + n).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
                let (cos, sin) = angles.map(|a| (a.cos(), a.sin())).unzip();
                [("mask", mask.collect()), ("cos", cos), ("sin", sin)]
                    .map(|(name, values)| (format!("{name}{kind}"), values))
            });
        all.flatten().collect()
    }

    fn is_local(&self, layer: usize) -> bool {
        self.local.as_ref().is_some_and(|local| local.layers[layer])
    }
}

/// What the names of inputs for layers with a window end in.
const LOCAL: &str = " of the window";

/// Which of Gemma's layers have a window: every sixth has none.
fn local(config: &Config, layers: usize, head_dim: usize) -> Result<Local> {
    let pattern = config.usize("sliding_window_pattern", config.usize("_sliding_window_pattern", 6)?)?;
    let by_pattern: Vec<bool> = (1..=layers).map(|i| i % pattern != 0).collect();
    let listed =
        config.get("layer_types").map(|_| config.strs("layer_types", &[])).transpose()?.unwrap_or_default();
    let by_list = listed.iter().map(|kind| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(config.unsupported("layer_types", other)),
    });
    let by_list = by_list.collect::<Result<Vec<_>>>()?;
    if !by_list.is_empty() && by_list.len() != layers {
        bail!("{}: layer_types has {} entries, of {layers} layers", config.name(), by_list.len());
    }
    Ok(Local {
        window: config.usize("sliding_window", 4096)?,
        layers: if by_list.is_empty() { by_pattern } else { by_list },
        frequencies: frequencies(config, head_dim, "sliding_attention")?,
    })
}

/// Rotary frequencies theta^(-2i/d), slowed down for long contexts as `rope_scaling` (or the newer `rope_parameters`) says, of layers of
/// one `kind`.
fn frequencies(config: &Config, head_dim: usize, kind: &str) -> Result<Vec<f32>> {
    let newer = config.get("rope_parameters").is_some();
    let key = if newer { "rope_parameters" } else { "rope_scaling" };
    let mut rope = config.sub(key)?;
    // Those of each kind of layer, in files since transformers 5.
    if rope.get(kind).is_some() {
        rope = rope.sub(kind)?;
    }
    let is_local = kind == "sliding_attention";
    let theta = match (newer, is_local) {
        (true, _) => rope.f64("rope_theta", 10000.0)?,
        (false, true) => config.f64("rope_local_base_freq", 10000.0)?,
        (false, false) => config.f64("rope_theta", 10000.0)?,
    };
    if is_local && !newer {
        // A window needs no longer waves.
        rope = config.sub("no scaling")?;
    }
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
    // How GGUFs have it: a divisor for each.
    let factors =
        config.get("rope_factors").and_then(Value::as_array).filter(|all| all.len() == scaled.len());
    let factor = |i: usize| factors.and_then(|all| all[i].as_f64()).filter(|f| *f > 0.0).unwrap_or(1.0);
    Ok(scaled.into_iter().enumerate().map(|(i, f)| (f / factor(i)) as f32).collect())
}

/// The layers and the last norm for the next T tokens: their embeddings (T, hidden) -> hidden states (T, hidden). Keys and
/// values join the caches (states `cache.LAYER.k` and `.v`, of `context` rows) at row `at`, and attention sees the first `seen` of these.
/// Inputs it asks for: `at` U32 (1), and those of [`LlamaConfig::positions`].
pub fn llama(w: &Weights, c: &LlamaConfig, tokens: Tensor, context: usize, seen: usize) -> Tensor {
    let (g, t) = (w.graph(), tokens.dim(0));
    let at = g.input("at", &[1], DType::U32);
    let positions = |kind: &str| {
        let input = |name: &str, width: usize| g.input(&format!("{name}{kind}"), &[t, width], DType::F32);
        (input("mask", seen), input("cos", c.head_dim / 2), input("sin", c.head_dim / 2))
    };
    let everywhere = positions("");
    let nearby = c.local.as_ref().map(|_| positions(LOCAL));
    let (heads, kv, d) = (c.heads, c.kv_heads, c.head_dim);
    let group = heads / kv;
    let mut x = tokens;
    for i in 0..c.layers {
        let _scope = g.scope(&format!("layers.{i}"));
        let layer = w.sub(format!("model.layers.{i}"));
        let attn = layer.sub("self_attn");
        let (mask, cos, sin) = nearby.filter(|_| c.is_local(i)).unwrap_or(everywhere);
        let y = norm(&layer.sub("input_layernorm"), c, x);
        let head_norm = |name: &str, y: Tensor| if c.qk_norm { norm(&attn.sub(name), c, y) } else { y };
        // (T, heads * D) -> (1, T, heads, D)
        let project = |name: &str, heads: usize| {
            let y = linear(&attn.sub(name), y, heads * d, c.qkv_bias, Epilogue::default());
            g.reshape(y, &[1, t, heads, d])
        };
        // (1, T, heads, D) -> (heads, T, D)
        let by_head = |y: Tensor| g.permute(g.reshape(y, &[t, y.dim(2), d]), &[1, 0, 2]);
        let cached = |name: &str, rows| {
            let cache = g.state(&format!("cache.{i}.{name}"), &[kv, context, d], DType::F32, Init::Zeros);
            g.slice(g.write_rows(cache, rows, at), 1, 0, seen)
        };
        let q = by_head(g.rope(head_norm("q_norm", project("q_proj", heads)), cos, sin));
        let q = g.scale(q, c.query_scale);
        let k = cached("k", by_head(g.rope(head_norm("k_norm", project("k_proj", kv)), cos, sin)));
        let v = cached("v", by_head(project("v_proj", kv)));
        // Neighbouring heads of q share a head of k and v: their rows make one taller matrix.
        let q = g.reshape(q, &[kv, group * t, d]);
        let scores = g.matmul_with(q, k, Matmul { transpose_b: true, ..Default::default() });
        let scores = g.add(g.reshape(scores, &[kv, group, t, seen]), mask);
        let p = g.reshape(g.softmax(scores), &[kv, group * t, seen]);
        let y = g.permute(g.reshape(g.matmul(p, v), &[heads, t, d]), &[1, 0, 2]);
        let y = g.reshape(y, &[t, heads * d]);
        // Added as it is written, or after a norm.
        let join = |name: &str, make: &dyn Fn(Epilogue) -> Tensor, x: Tensor| match c.sandwich {
            false => make(Epilogue::plus(x)),
            true => g.add(x, norm(&layer.sub(name), c, make(Epilogue::default()))),
        };
        let out = |epilogue| linear(&attn.sub("o_proj"), y, c.hidden, c.out_bias, epilogue);
        x = join("post_attention_layernorm", &out, x);
        let before = if c.sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let y = norm(&layer.sub(before), c, x);
        let mlp =
            |name: &str, y, out, epilogue| linear(&layer.sub("mlp").sub(name), y, out, c.mlp_bias, epilogue);
        let gate = mlp("gate_proj", y, c.intermediate, Epilogue::act(c.act));
        let y = g.mul(gate, mlp("up_proj", y, c.intermediate, Epilogue::default()));
        x = join("post_feedforward_layernorm", &|epilogue| mlp("down_proj", y, c.hidden, epilogue), x);
    }
    norm(&w.sub("model.norm"), c, x)
}

/// RMSNorm, whose weight Gemma's files hold less 1.
fn norm(w: &Weights, c: &LlamaConfig, x: Tensor) -> Tensor {
    match c.norms_from_one {
        false => nn::rms_norm(w, x, c.eps),
        true => {
            let g = w.graph();
            g.rms_norm(x, g.add_scalar(w.get("weight", &[x.last()]), 1.0), c.eps)
        }
    }
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
