//! Language models of the Llama family (Touvron et al. 2023) and Qwen2: forward in steps over a cache of keys and values that
//! stays on the device, and decoding.

use super::config::Config;
use crate::core::{DType, Gpu, Graph, Init, Plan, Store, Tensor, Weights};
use crate::data::checkpoint::Checkpoint;
use crate::nn;
use crate::ops::{Act, Epilogue, Matmul};
use crate::verify::golden::{Comparison, Golden};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Tokens of a prompt that one run of the model takes in.
const CHUNK: usize = 64;
/// Added to scores that a token must not see: e to this is 0.
const UNSEEN: f32 = -1e30;

/// A model as its config.json describes it.
#[derive(Clone, Debug)]
pub struct LlamaConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Longest text, in tokens.
    pub positions: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    tied: bool,
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
    fn rotations(&self, start: usize, n: usize) -> (Vec<f32>, Vec<f32>) {
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
pub fn llama(g: &Graph, w: &Weights, c: &LlamaConfig, tokens: Tensor, context: usize) -> Tensor {
    let t = tokens.dim(0);
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
        let y = nn::rms_norm(g, &layer.sub("input_layernorm"), x, c.eps);
        // (T, heads * D) -> (heads, T, D)
        let project = |name: &str, heads: usize, turn: bool| {
            let y = nn::linear(g, &attn.sub(name), y, heads * d, c.qkv_bias);
            let y = g.reshape(y, &[1, t, heads, d]);
            let y = if turn { g.rope(y, cos, sin) } else { y };
            g.permute(g.reshape(y, &[t, heads, d]), &[1, 0, 2])
        };
        let cached = |name: &str, rows| {
            let cache = g.state(&format!("cache.{i}.{name}"), &[kv, context, d], DType::F32, Init::Zeros);
            g.write_rows(cache, rows, at)
        };
        let q = g.scale(project("q_proj", heads, true), 1.0 / (d as f32).sqrt());
        let k = cached("k", project("k_proj", kv, true));
        let v = cached("v", project("v_proj", kv, false));
        // Neighbouring heads of q share a head of k and v: their rows make one taller matrix.
        let q = g.reshape(q, &[kv, group * t, d]);
        let scores = g.matmul_with(q, k, Matmul { transpose_b: true, ..Default::default() });
        let scores = g.add(g.reshape(scores, &[kv, group, t, context]), mask);
        let p = g.reshape(g.softmax(scores), &[kv, group * t, context]);
        let y = g.permute(g.reshape(g.matmul(p, v), &[heads, t, d]), &[1, 0, 2]);
        let y = g.reshape(y, &[t, heads * d]);
        let residual = |x| Epilogue { residual: Some(x), ..Default::default() };
        x = nn::linear_with(g, &attn.sub("o_proj"), y, c.hidden, c.out_bias, residual(x));
        let y = nn::rms_norm(g, &layer.sub("post_attention_layernorm"), x, c.eps);
        let mlp = layer.sub("mlp");
        let silu = Epilogue { act: Act::Silu, ..Default::default() };
        let gate = nn::linear_with(g, &mlp.sub("gate_proj"), y, c.intermediate, c.mlp_bias, silu);
        let y = g.mul(gate, nn::linear(g, &mlp.sub("up_proj"), y, c.intermediate, c.mlp_bias));
        x = nn::linear_with(g, &mlp.sub("down_proj"), y, c.hidden, c.mlp_bias, residual(x));
    }
    nn::rms_norm(g, &w.sub("model.norm"), x, c.eps)
}

/// A language model on a device, with the text it has read so far.
pub struct Llama {
    config: LlamaConfig,
    gpu: Gpu,
    checkpoint: Checkpoint,
    store: Store,
    dtype: DType,
    /// Rows of the head's matrix in each piece of it: the whole may be more than the device lets a kernel see.
    pieces: Vec<usize>,
    /// By the number of tokens that a run takes.
    plans: HashMap<usize, Plan>,
    context: usize,
    position: usize,
}

impl Llama {
    /// A model with room for `context` tokens (at most as many as it was trained for); matrices are kept as `dtype`.
    ///
    /// # Errors
    /// A configuration that is not supported, a checkpoint that lacks a tensor, no device memory.
    pub fn new(
        gpu: &Gpu,
        config: &Config,
        checkpoint: Checkpoint,
        context: usize,
        dtype: DType,
    ) -> Result<Llama> {
        let config = LlamaConfig::new(config)?;
        let mut store = Store::new(gpu);
        let head = if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let (vocab, hidden) = (config.vocab_size, config.hidden);
        let rows = (gpu.caps().binding_bytes as usize / dtype.bytes(hidden) / 64 * 64).max(64);
        let mut pieces = Vec::new();
        for start in (0..vocab).step_by(rows) {
            let ids: Vec<u32> = (start..vocab.min(start + rows)).map(|i| i as u32).collect();
            let data = checkpoint.rows_f32(head, &ids, &[vocab, hidden])?;
            store.write_as(&format!("head.{}", pieces.len()), &[ids.len(), hidden], dtype, &data)?;
            pieces.push(ids.len());
        }
        let context = context.min(config.positions);
        let gpu = gpu.clone();
        let mut llama = Llama {
            config,
            gpu,
            checkpoint,
            store,
            dtype,
            pieces,
            plans: HashMap::new(),
            context,
            position: 0,
        };
        for tokens in [CHUNK, 1] {
            let plan = llama.plan(tokens)?;
            llama.plans.insert(tokens, plan);
        }
        Ok(llama)
    }

    fn plan(&mut self, tokens: usize) -> Result<Plan> {
        let g = Graph::new(self.gpu.caps());
        let w = Weights::new(&g, self.dtype);
        let x = g.input("tokens", &[tokens, self.config.hidden], DType::F32);
        let x = llama(&g, &w, &self.config, x, self.context);
        for (i, &rows) in self.pieces.iter().enumerate() {
            let _scope = g.scope("lm_head");
            let head = g.state(&format!("head.{i}"), &[rows, self.config.hidden], self.dtype, Init::Loaded);
            g.output(&format!("logits.{i}"), g.linear(x, head, None));
        }
        if self.plans.is_empty() {
            self.store.load(&self.checkpoint, &w)?;
        }
        Plan::new(&self.gpu, g, &self.store)
    }

    /// What its config.json says.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Forgets what was read.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Reads tokens after those read before, and returns the scores of every token to come next: (vocab) behind the last of
    /// `ids`, or, with `every`, (ids, vocab) behind each of them.
    ///
    /// # Errors
    /// More tokens than there is room for; an id that is none; a device that fails.
    pub fn read(&mut self, ids: &[u32], every: bool) -> Result<Vec<f32>> {
        if self.position + ids.len() > self.context {
            let (read, more) = (self.position, ids.len());
            bail!("the text is too long: {read} tokens read and {more} to come, room for {}", self.context);
        }
        let mut out = Vec::new();
        let mut left = ids;
        while !left.is_empty() {
            let tokens = if left.len() > 1 { CHUNK } else { 1 };
            let (now, rest) = left.split_at(left.len().min(tokens));
            left = rest;
            self.run(now, tokens)?;
            if every || left.is_empty() {
                let first = if every { 0 } else { now.len() - 1 };
                self.logits(tokens, first, now.len(), &mut out)?;
            }
        }
        Ok(out)
    }

    /// One run. Where there are fewer `ids` than `tokens`, zeros fill up; what they leave in the cache is out of sight of
    /// every token and overwritten later.
    fn run(&mut self, ids: &[u32], tokens: usize) -> Result<()> {
        let (c, start, context) = (&self.config, self.position, self.context);
        let mut x = self.checkpoint.rows_f32("model.embed_tokens.weight", ids, &[c.vocab_size, c.hidden])?;
        x.resize(tokens * c.hidden, 0.0);
        let mask: Vec<f32> = (start..start + tokens)
            .flat_map(|i| (0..context).map(move |j| if j <= i { 0.0 } else { UNSEEN }))
            .collect();
        let (cos, sin) = c.rotations(start, tokens);
        let plan = self.plans.get_mut(&tokens).expect("both plans are made at the start");
        plan.write("tokens", &x)?;
        plan.write("mask", &mask)?;
        plan.write("cos", &cos)?;
        plan.write("sin", &sin)?;
        plan.write_u32("at", &[start as u32])?;
        plan.run()?;
        self.position += ids.len();
        Ok(())
    }

    /// Appends rows `first .. end` of the last run's scores to `out`.
    fn logits(&self, tokens: usize, first: usize, end: usize, out: &mut Vec<f32>) -> Result<()> {
        let plan = &self.plans[&tokens];
        let names = (0..self.pieces.len()).map(|i| format!("logits.{i}"));
        let pieces = names.map(|n| plan.read(&n)).collect::<Result<Vec<_>>>()?;
        for row in first..end {
            for (piece, &width) in pieces.iter().zip(&self.pieces) {
                out.extend(&piece[row * width..][..width]);
            }
        }
        Ok(())
    }

    /// Reads `prompt` and writes on: each next token is what `choose` makes of the scores, until it returns None, `most` tokens
    /// are written, or there is no more room. Returns the new tokens.
    ///
    /// # Errors
    /// As [`Llama::read`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        most: usize,
        mut choose: impl FnMut(&[f32]) -> Option<u32>,
    ) -> Result<Vec<u32>> {
        if prompt.is_empty() {
            bail!("an empty prompt: there is nothing to go on from");
        }
        let mut out = Vec::new();
        let mut logits = self.read(prompt, false)?;
        while out.len() < most {
            let Some(next) = choose(&logits) else { break };
            out.push(next);
            if out.len() == most || self.position == self.context {
                break;
            }
            logits = self.read(&[next], false)?;
        }
        Ok(out)
    }
}

/// The token of the highest score: greedy decoding.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// A token drawn by `uniform` in [0, 1) from the most likely ones that together have probability `top_p` (nucleus sampling,
/// Holtzman et al. 2020), at a temperature; with temperature 0 the likeliest.
pub fn sample(logits: &[f32], temperature: f32, top_p: f32, uniform: f32) -> u32 {
    if temperature <= 0.0 {
        return argmax(logits);
    }
    let largest = logits[argmax(logits) as usize];
    let mut tokens: Vec<(f32, u32)> =
        logits.iter().zip(0..).map(|(v, i)| (((v - largest) / temperature).exp(), i)).collect();
    tokens.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f32 = tokens.iter().map(|t| t.0).sum();
    let mut nucleus = 0.0;
    let end = tokens.iter().position(|t| {
        nucleus += t.0;
        nucleus >= top_p * total
    });
    tokens.truncate(end.map_or(tokens.len(), |i| i + 1));
    let mut left = uniform * tokens.iter().map(|t| t.0).sum::<f32>();
    let drawn = tokens.iter().find(|t| {
        left -= t.0;
        left < 0.0
    });
    drawn.unwrap_or(&tokens[tokens.len() - 1]).1
}

/// `kaleid verify`: the scores behind each token, and what greedy decoding writes.
///
/// # Errors
/// A golden that lacks what it should hold.
pub fn golden(golden: &Golden) -> Result<Vec<Comparison>> {
    let ([batch, length], ids) = golden.ids("input_ids")?;
    let greedy = golden.tensors.contains("greedy").then(|| golden.ids::<2>("greedy")).transpose()?;
    let most = greedy.as_ref().map_or(0, |([_, total], _)| total.saturating_sub(length));
    let mut llama = Llama::new(&golden.gpu, &golden.config, golden.weights()?, length + most, DType::F32)?;
    let (mut logits, mut written) = (Vec::new(), Vec::new());
    for prompt in ids.chunks_exact(length) {
        llama.reset();
        logits.extend(llama.read(prompt, true)?);
        llama.reset();
        written.extend(prompt);
        if most > 0 {
            written.extend(llama.generate(prompt, most, |logits| Some(argmax(logits)))?);
        }
    }
    debug_assert_eq!(ids.len(), batch * length);
    let mut out = vec![golden.compare("logits", &logits)?];
    out.extend(greedy.map(|(_, want)| Comparison::exact("greedy", &written, &want)));
    Ok(out)
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

    #[test]
    fn sampling() {
        let logits = [0.0, 3.0, 1.0, 2.9];
        assert_eq!(sample(&logits, 0.0, 1.0, 0.9), 1);
        assert_eq!(sample(&logits, 1.0, 0.1, 0.99), 1);
        assert_eq!(sample(&logits, 1.0, 0.9, 0.6), 3);
        assert_eq!(sample(&logits, 1.0, 1.0, 0.999_999), 0);
    }
}
