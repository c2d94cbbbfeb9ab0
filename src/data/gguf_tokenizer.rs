//! The tokenizer in a GGUF, as a `tokenizer.json`: byte-level pairs (`gpt2`) or SentencePiece's pieces with scores (`llama`), which are
//! merged by the same machine when their scores become an order (llama.cpp's `llama-vocab.cpp`).

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// How texts are cut before pairs are merged, by what `tokenizer.ggml.pre` says.
const CUTS: [(&[&str], &[&str]); 4] = [
    // Digits one by one, then GPT-2's.
    (&["smollm", "starcoder", "refact", "command-r", "codeshell"], &[r"\p{N}", GPT2]),
    (&["gpt-2", "mpt", "olmo", "jais", "phi-2", "default"], &[GPT2]),
    (&["qwen2", "deepseek-r1-qwen"], &[QWEN]),
    (&["llama-bpe", "llama3", "llama-v3", "falcon3"], &[LLAMA3]),
];
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Types of tokens.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What a GGUF says of tokens.
pub struct Gguf<'a> {
    header: &'a Map<String, Value>,
    tokens: Vec<&'a str>,
}

impl<'a> Gguf<'a> {
    /// Reads the keys of a GGUF.
    ///
    /// # Errors
    /// No tokens among them.
    pub fn new(header: &'a Map<String, Value>) -> Result<Gguf<'a>> {
        let tokens =
            header.get("tokenizer.ggml.tokens").and_then(Value::as_array).context("no tokenizer in it")?;
        let tokens = tokens.iter().map(Value::as_str).collect::<Option<_>>();
        Ok(Gguf { header, tokens: tokens.context("tokenizer.ggml.tokens holds other things than texts")? })
    }

    fn key(&self, name: &str) -> Option<&'a Value> {
        self.header.get(&format!("tokenizer.ggml.{name}"))
    }

    fn is(&self, name: &str, default: bool) -> bool {
        self.key(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The token that begins or ends texts, and other named ones.
    pub fn special(&self, name: &str) -> Option<&'a str> {
        let id = self.key(&format!("{name}_token_id")).and_then(Value::as_u64)?;
        self.tokens.get(usize::try_from(id).ok()?).copied()
    }

    /// Whether a text begins with a token of its own.
    pub fn begins(&self) -> bool {
        let is_pieces = self.model() == "llama";
        let of_llama3 = self.key("pre").and_then(Value::as_str).is_some_and(|pre| CUTS[3].0.contains(&pre));
        self.is("add_bos_token", is_pieces || of_llama3)
    }

    fn model(&self) -> &str {
        self.key("model").and_then(Value::as_str).unwrap_or_default()
    }

    fn kind(&self, id: usize) -> i64 {
        let kinds = self.key("token_type").and_then(Value::as_array);
        kinds.and_then(|kinds| kinds.get(id)?.as_i64()).unwrap_or(1)
    }

    /// The tokenizer.json.
    ///
    /// # Errors
    /// A kind of tokenizer that is not supported.
    pub fn json(&self) -> Result<Value> {
        let mut json = match self.model() {
            "gpt2" => self.byte_pairs()?,
            "llama" => self.pieces()?,
            other => bail!("a tokenizer of kind {other:?} is not supported: gpt2 and llama are"),
        };
        let added = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| [CONTROL, USER_DEFINED].contains(&self.kind(*id)));
        let added = added.map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": self.kind(id) == CONTROL})
        });
        json["added_tokens"] = added.collect();
        if let Some(bos) = self.special("bos").filter(|_| self.begins()) {
            let id = self.key("bos_token_id");
            json["post_processor"] = json!({"type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}}});
        }
        Ok(json)
    }

    fn vocabulary(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.to_string(), id.into())).collect()
    }

    fn byte_pairs(&self) -> Result<Value> {
        let pre = self.key("pre").and_then(Value::as_str).unwrap_or("default");
        let Some((_, cuts)) = CUTS.iter().find(|(names, _)| names.contains(&pre)) else {
            bail!("texts cut as {pre:?} says (tokenizer.ggml.pre) are not supported");
        };
        let merges = self.key("merges").and_then(Value::as_array).context("no tokenizer.ggml.merges")?;
        // A pair's parts may begin with the space between them.
        let pair = |merge: &Value| {
            let text = merge.as_str()?;
            let first = text.chars().next()?.len_utf8();
            let at = first + text[first..].find(' ')?;
            Some(json!([text[..at], text[at + 1..]]))
        };
        let merges: Option<Vec<Value>> = merges.iter().map(pair).collect();
        let mut steps: Vec<Value> = cuts
            .iter()
            .map(|cut| json!({"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": false}))
            .collect();
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        steps.push(byte_level.clone());
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "post_processor": null, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": CUTS[3].0.contains(&pre), "vocab": self.vocabulary(),
                "merges": merges.context("tokenizer.ggml.merges holds other things than pairs")?},
        }))
    }

    fn pieces(&self) -> Result<Value> {
        let scores = self.key("scores").and_then(Value::as_array).context("no tokenizer.ggml.scores")?;
        let score = |id: usize| scores.get(id).and_then(Value::as_f64).unwrap_or(0.0);
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        // Every way to make a piece of two others; the best pieces first.
        let mut merges = vec![];
        for (id, token) in self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| self.kind(*id) == 1 || self.kind(*id) == USER_DEFINED)
        {
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                    merges.push((score(id), l, r, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let merges: Vec<Value> = merges.iter().map(|(.., left, right)| json!([left, right])).collect();
        let prefix = self.is("add_space_prefix", true);
        let mut normalizers = vec![];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.push(json!({"type": "Prepend", "prepend": "\u{2581}"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}));
        let unknown = self.special("unknown").or(self.tokens.first().copied());
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocabulary(), "merges": merges},
        }))
    }
}
