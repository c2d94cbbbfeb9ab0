//! Language models in GGUF: the small models of the goldens, written as llama.cpp's converter writes them, give the goldens' logits; and
//! tokenizers of both kinds. (Real files by hand: SmolLM2-135M Q4_1 and Gemma 3 270M Q4_K_M continue a text for 32 tokens as transformers
//! does.)

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Weights};
use kaleid::data::checkpoint::Checkpoint;
use kaleid::data::config::Config;
use kaleid::data::folder::Folder;
use kaleid::data::synthetic;
use kaleid::data::tokenizer::Tokenizer;
use kaleid::engines::llama::Llama;
use kaleid::models::gguf;
use kaleid::models::llama::{LlamaConfig, llama};
use kaleid::verify::golden::Comparison;
use serde_json::{Value, json};
use std::path::Path;

/// A GGUF of version 3 with f32 tensors.
fn file(keys: &Value, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn value_of(out: &mut Vec<u8>, value: &Value, with_type: bool) {
        match value {
            Value::Bool(b) => {
                if with_type {
                    out.extend(7u32.to_le_bytes());
                }
                out.push(u8::from(*b));
            }
            Value::Number(n) if n.is_u64() => {
                if with_type {
                    out.extend(4u32.to_le_bytes());
                }
                out.extend((n.as_u64().unwrap() as u32).to_le_bytes());
            }
            Value::Number(n) => {
                if with_type {
                    out.extend(6u32.to_le_bytes());
                }
                out.extend((n.as_f64().unwrap() as f32).to_le_bytes());
            }
            Value::String(s) => {
                if with_type {
                    out.extend(8u32.to_le_bytes());
                }
                text(out, s);
            }
            Value::Array(list) => {
                if with_type {
                    out.extend(9u32.to_le_bytes());
                }
                let element: u32 = if list[0].is_string() {
                    8
                } else if list[0].is_u64() {
                    4
                } else {
                    6
                };
                out.extend(element.to_le_bytes());
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|v| value_of(out, v, false));
            }
            other => panic!("{other}"),
        }
    }
    let keys = keys.as_object().unwrap();
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, v) in keys {
        text(&mut out, key);
        value_of(&mut out, v, true);
    }
    let mut offset = 0u64;
    for (name, shape, data) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (4 * data.len() as u64).next_multiple_of(32);
    }
    for (_, _, data) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        data.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }
    out
}

/// The names that llama.cpp's converter gives.
fn converted(name: &str, arch: &str) -> String {
    let mut name = name.replace("model.embed_tokens", "token_embd").replace("lm_head", "output");
    if name == "model.norm.weight" {
        return "output_norm.weight".into();
    }
    let norms = match arch {
        "gemma3" => [
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        _ => [("post_attention_layernorm", "ffn_norm"), ("-", ""), ("-", "")],
    };
    let parts = [
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    for (theirs, ours) in norms.into_iter().chain(parts) {
        name = name.replace(theirs, ours);
    }
    name
}

/// A golden's model as a GGUF.
fn model(golden: &str, arch: &str) -> Vec<u8> {
    let folder = Folder::from(Path::new("tests/golden").join(golden).as_path());
    let config = Config::of(&folder).unwrap();
    let llama_config = LlamaConfig::new(&config).unwrap();
    let number = |key: &str| config.get(key).and_then(Value::as_u64).unwrap();
    let (hidden, heads, kv) =
        (number("hidden_size"), number("num_attention_heads"), number("num_key_value_heads"));
    let d = config.get("head_dim").and_then(Value::as_u64).unwrap_or(hidden / heads) as usize;
    // Which tensors there are, the model says when it is recorded.
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    let g = Graph::new(gpu.caps());
    let w = Weights::new(&g, DType::F32);
    llama(&w, &llama_config, g.input("tokens", &[1, hidden as usize], DType::F32), 8, 8);
    let mut all: Vec<(String, Vec<usize>)> = w.params().into_iter().flat_map(|param| param.parts).collect();
    all.push(("model.embed_tokens.weight".into(), vec![number("vocab_size") as usize, hidden as usize]));
    if config.get("tie_word_embeddings") == Some(&json!(false)) {
        all.push(("lm_head.weight".into(), vec![number("vocab_size") as usize, hidden as usize]));
    }
    let mut tensors = vec![];
    for (name, shape) in all {
        let mut data = synthetic::tensor(&name, &shape);
        if arch == "llama" && (name.contains("q_proj") || name.contains("k_proj")) {
            // Halves of heads become pairs.
            let (old, width) = (data.clone(), shape[1]);
            for (row, out) in data.chunks_exact_mut(width).enumerate() {
                let (head, pair, half) = (row / d, row % d / 2, row % 2);
                out.copy_from_slice(&old[(head * d + half * (d / 2) + pair) * width..][..width]);
            }
        }
        if arch == "gemma3" && name.ends_with("norm.weight") {
            data.iter_mut().for_each(|v| *v += 1.0);
        }
        tensors.push((converted(&name, arch), shape, data));
    }
    let rope = config.get("rope_parameters").cloned().unwrap_or(json!({}));
    let theta = rope["rope_theta"].as_f64().or(rope["full_attention"]["rope_theta"].as_f64());
    let theta = theta.or(config.get("rope_theta").and_then(Value::as_f64)).unwrap_or(10000.0);
    let key = |name: &str| format!("{arch}.{name}");
    let mut keys = json!({
        "general.architecture": arch,
        (key("block_count")): number("num_hidden_layers"),
        (key("context_length")): number("max_position_embeddings"),
        (key("embedding_length")): hidden,
        (key("feed_forward_length")): number("intermediate_size"),
        (key("attention.head_count")): heads,
        (key("attention.head_count_kv")): kv,
        (key("attention.key_length")): d,
        (key("attention.layer_norm_rms_epsilon")): config.get("rms_norm_eps"),
        (key("rope.freq_base")): theta,
    });
    if arch == "gemma3" {
        keys[key("attention.sliding_window")] = config.get("sliding_window").cloned().unwrap();
    }
    file(&keys, &tensors)
}

#[test]
fn models_as_llama_cpp_converts_them_give_the_logits_of_transformers() {
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    for (golden, arch) in [("llama_tiny", "llama"), ("qwen3_tiny", "qwen3")] {
        let bytes = model(golden, arch);
        let (config, weights) = gguf::open(Checkpoint::from_bytes("x.gguf", bytes).unwrap()).unwrap();
        let tensors = Checkpoint::open(format!("tests/golden/{golden}.safetensors")).unwrap();
        let (ids, want) = (tensors.u32s("input_ids").unwrap(), tensors.tensor("logits").unwrap().1);
        let mut model = Llama::new(&gpu, &config, weights, ids.len(), DType::F32).unwrap();
        let comparison = Comparison::new(golden, &model.read_each(&ids).unwrap(), &want, 1e-4);
        assert!(comparison.holds(), "{comparison:?}");
    }
}

#[test]
fn architectures_that_are_not_known_are_named() {
    let open = |keys: Value| gguf::open(Checkpoint::from_bytes("x.gguf", file(&keys, &[])).unwrap());
    let error = |keys: Value| format!("{:#}", open(keys).err().expect("an error"));
    let mamba = error(json!({"general.architecture": "mamba"}));
    assert_eq!(mamba, "x.gguf: architecture mamba is not supported: llama, qwen2, qwen3, gemma3 are");
    assert!(error(json!({"general.name": "x"})).contains("does not say its architecture"));
    assert!(error(json!({"general.architecture": "llama"})).contains("no tensor token_embd.weight"));
}

fn tokenizer(keys: Value) -> anyhow::Result<Tokenizer> {
    Tokenizer::of_gguf("x.gguf", keys.as_object().unwrap())
}

#[test]
fn pieces_with_scores_are_merged_best_first() {
    let tokens =
        ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "ab", "bc", "▁ab", "▁abc", "<0xC3>", "<0xA4>", "<turn>"];
    let kinds = [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6, 6, 4];
    let keys = |prefix: bool, scores: [f64; 14]| {
        json!({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_space_prefix": prefix})
    };
    // "bc" scores better than "ab", so of "abc" a comes to stand alone.
    let scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0, 0.0, 0.0, 0.0];
    let plain = tokenizer(keys(false, scores)).unwrap();
    assert_eq!(plain.encode("abc").unwrap(), [1, 4, 8]);
    assert_eq!(plain.encode("ab").unwrap(), [1, 7]);
    // Bytes of what is no piece; tokens that are cut out first.
    assert_eq!(plain.encode("ä<turn>ab").unwrap(), [1, 11, 12, 13, 7]);
    assert_eq!(plain.decode(&[4, 11, 12, 3, 7]).unwrap(), "aä ab");
    let mut turned = scores;
    (turned[7], turned[8]) = (-1.0, -2.0);
    let prefixed = tokenizer(keys(true, turned)).unwrap();
    assert_eq!(prefixed.encode("abc").unwrap(), [1, 10]);
    assert_eq!(prefixed.encode("ab").unwrap(), [1, 9]);
    assert_eq!(prefixed.decode(&[9, 6]).unwrap(), "abc");
}

#[test]
fn pairs_of_bytes_are_cut_as_the_file_says() {
    let tokens = ["a", "b", "ab", "Ġ", "Ġa", "1", "2", "12", "<|im_end|>"];
    let keys = |pre: &str| {
        json!({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 1, 1, 1, 3], "tokenizer.ggml.merges": ["a b", "Ġ a", "1 2"]})
    };
    // SmolLM's digits stand alone, Llama 3's by threes.
    assert_eq!(tokenizer(keys("smollm")).unwrap().encode("ab a12<|im_end|>").unwrap(), [2, 4, 5, 6, 8]);
    assert_eq!(tokenizer(keys("llama-bpe")).unwrap().encode("ab a12").unwrap(), [2, 4, 7]);
    assert_eq!(tokenizer(keys("qwen2")).unwrap().encode("12").unwrap(), [5, 6]);
    let error = |keys: Value| format!("{:#}", tokenizer(keys).err().expect("an error"));
    assert!(
        error(keys("tekken"))
            .contains("x.gguf: texts cut as \"tekken\" says (tokenizer.ggml.pre) are not supported")
    );
    assert!(
        error(json!({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["a"]}))
            .contains("kind \"bert\"")
    );
    assert!(error(json!({})).contains("no tokenizer in it"));
}
