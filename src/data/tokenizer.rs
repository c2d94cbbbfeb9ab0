//! Tokenizers of Hugging Face folders: any `tokenizer.json`, and CLIP's `vocab.json` with `merges.txt`.

use super::folder::{Embedded, Folder};
use super::gguf_tokenizer::Gguf;
use super::one_line;
use super::text::{self, whole};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tokenizers::normalizers::Precompiled;
use tokenizers::{AddedToken, Encoding, PaddingParams, PaddingStrategy, TruncationParams};

/// CLIP splits text into contractions, runs of letters, single digits and runs of anything else.
const CLIP_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// What is looked at before the crate reads a `tokenizer.json`.
#[derive(Deserialize)]
struct Normalizers {
    #[serde(default)]
    normalizer: Value,
}

/// Sees that every normalizer `Precompiled`, however deep in a sequence, can be read.
fn character_maps(normalizer: &Value) -> serde_json::Result<()> {
    match normalizer {
        Value::Object(map) if map.get("type").is_some_and(|name| name == "Precompiled") => {
            serde_json::from_str::<Precompiled>(&normalizer.to_string()).map(drop)
        }
        Value::Object(map) => map.values().try_for_each(character_maps),
        Value::Array(list) => list.iter().try_for_each(character_maps),
        _ => Ok(()),
    }
}

/// CLIP's tokenizer as Stable Diffusion 1 has it, for files that bring none.
pub const CLIP: Embedded = &[
    ("merges.txt", MERGES),
    ("special_tokens_map.json", br#"{"pad_token": "<|endoftext|>"}"#),
    ("tokenizer_config.json", br#"{"model_max_length": 77}"#),
];
/// The same as Stable Diffusion 2 has it: padded with another token.
pub const OPEN_CLIP: Embedded = &[
    ("merges.txt", MERGES),
    ("special_tokens_map.json", br#"{"pad_token": "!"}"#),
    ("tokenizer_config.json", br#"{"model_max_length": 77}"#),
];
/// By OpenAI, under the MIT licence.
const MERGES: &[u8] = include_bytes!("../../weights/clip_tokenizer/merges.txt");

/// From text to token ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    name: String,
    pad: Option<u32>,
    max_length: Option<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, else builds CLIP's byte-pair encoding of `vocab.json` and `merges.txt`, from which the other follows
    /// where it is missing. The padding token is
    /// that of `special_tokens_map.json`, else of `tokenizer_config.json`, else `<|endoftext|>`. (Stable Diffusion 2 pads
    /// with `!`, which only the first of these files says.)
    ///
    /// # Errors
    /// Files that are missing or not what a tokenizer is made of.
    pub fn open(folder: &Folder) -> Result<Tokenizer> {
        let (name, json) = if folder.has("tokenizer.json") {
            (folder.name("tokenizer.json"), folder.text("tokenizer.json")?.into_bytes())
        } else if let Some(file) = ["vocab.json", "merges.txt"].into_iter().find(|file| folder.has(file)) {
            (folder.name(file), serde_json::to_vec(&clip(folder)?)?)
        } else {
            bail!("{}: neither tokenizer.json nor vocab.json with merges.txt in it", folder.name(""));
        };
        let inner = built(&name, json)?;
        let special = optional(folder, "special_tokens_map.json")?;
        let config = optional(folder, "tokenizer_config.json")?;
        let named = |map: &Map<String, Value>| {
            let token = map.get("pad_token")?;
            token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_string)
        };
        let pad = named(&special).or(named(&config)).unwrap_or(END.to_string());
        let max_length = config.get("model_max_length").and_then(whole);
        Ok(Tokenizer {
            pad: inner.token_to_id(&pad),
            max_length: max_length.filter(|&n| n < 1 << 20).map(|n| n as usize),
            inner,
            name,
        })
    }

    /// From here on every text becomes at most `length` ids (and at most the tokenizer's own `model_max_length`), of which
    /// the special ones at both ends stay, filled up with the padding token to exactly `length`.
    ///
    /// # Errors
    /// A tokenizer without a padding token; a length that leaves no room for a text.
    pub fn pad_to(&mut self, length: usize) -> Result<()> {
        let Some(pad) = self.pad else { bail!("{}: no padding token", self.name) };
        let max_length = length.min(self.max_length.unwrap_or(length));
        // What stays of an empty text; the tokenizer itself would count below zero.
        let special = self.encode("")?.len();
        if max_length <= special || length > 1 << 20 {
            bail!(
                "{}: texts of {max_length} tokens, {special} of them special, leave none for words",
                self.name
            );
        }
        let truncation = TruncationParams { max_length, ..Default::default() };
        self.inner.with_truncation(Some(truncation)).map_err(|e| anyhow!("{}: {e}", self.name))?;
        self.inner.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::Fixed(length),
            pad_id: pad,
            ..Default::default()
        }));
        Ok(())
    }

    /// That of a GGUF; `name` is what errors call it.
    ///
    /// # Errors
    /// Keys that are missing, or of a tokenizer that is not supported.
    pub fn of_gguf(name: &str, header: &Map<String, Value>) -> Result<Tokenizer> {
        let json = Gguf::new(header).and_then(|gguf| gguf.json()).with_context(|| name.to_string())?;
        let inner = built(name, serde_json::to_vec(&json)?)?;
        Ok(Tokenizer { inner, name: name.to_string(), pad: None, max_length: None })
    }

    /// Adds a word that is one token, in any case; its id.
    pub fn add(&mut self, word: &str) -> Option<u32> {
        self.inner.add_tokens(&[AddedToken::from(word, false).single_word(true)]);
        self.id(word)
    }

    /// Ids of a text, with the special tokens that the model expects around it.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(self.inner.encode_fast(text, true), text)
    }

    /// Ids of a text in pieces of the length of [`Tokenizer::pad_to`], each with the special tokens around it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn chunks(&self, text: &str) -> Result<Vec<Vec<u32>>> {
        let first = self.encoded(self.inner.encode_fast(text, true), text)?;
        let all = std::iter::once(&first).chain(first.get_overflowing());
        Ok(all.map(|piece| piece.get_ids().to_vec()).collect())
    }

    /// The end of a text that [`Tokenizer::pad_to`] cuts off; empty for most.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn lost<'t>(&self, text: &'t str) -> Result<&'t str> {
        let encoding = self.encoded(self.inner.encode(text, true), text)?;
        let word = |e: &Encoding| {
            let special = e.get_special_tokens_mask();
            e.get_offsets().iter().zip(special).find(|(_, s)| **s == 0).map(|(offsets, _)| offsets.0)
        };
        let from = encoding.get_overflowing().first().and_then(word);
        Ok(from.and_then(|from| text.get(from..)).unwrap_or_default())
    }

    /// Ids of a text that spells its special tokens itself, such as a rendered chat.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_raw(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(self.inner.encode_fast(text, false), text)
    }

    fn ids(&self, encoded: tokenizers::Result<Encoding>, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoded(encoded, text)?.get_ids().to_vec())
    }

    fn encoded(&self, encoded: tokenizers::Result<Encoding>, text: &str) -> Result<Encoding> {
        encoded.map_err(|e| anyhow!("{}: cannot encode {text:?}: {}", self.name, one_line(&e.to_string())))
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// Ids that the tokenizer cannot decode.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|e| anyhow!("{}: cannot decode: {}", self.name, one_line(&e.to_string())))
    }

    /// What error messages call its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The crate's tokenizer of a `tokenizer.json`.
fn built(name: &str, json: Vec<u8>) -> Result<tokenizers::Tokenizer> {
    let wrong = |e: &str| anyhow!("{name}: not a tokenizer: {}", one_line(e));
    // The crate panics at some places that are no JSON, and at a map of characters that is none.
    let read: Normalizers = serde_json::from_slice(&json).map_err(|e| wrong(&e.to_string()))?;
    character_maps(&read.normalizer).map_err(|e| wrong(&e.to_string()))?;
    let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| wrong(&e.to_string()))?;
    // A file may ask for a length of its own; models say theirs.
    inner.with_padding(None).with_truncation(None).map_err(|e| anyhow!("{name}: {e}"))?;
    Ok(inner)
}

/// The `tokenizer.json` that CLIP's own files stand for: lower case, words ending in `</w>`, bytes as letters.
fn clip(folder: &Folder) -> Result<Value> {
    let given = folder.has("vocab.json").then(|| optional(folder, "vocab.json")).transpose()?;
    let merges = folder.text("merges.txt")?;
    let lines = merges.lines().filter(|l| !l.starts_with("#version") && !l.trim().is_empty());
    let merges: Vec<Vec<&str>> = lines.map(|l| l.split(' ').collect()).collect();
    if let Some(bad) = merges.iter().find(|m| m.len() != 2) {
        bail!("{}: {:?} is not a pair of tokens", folder.name("merges.txt"), bad.join(" "));
    }
    let mut vocab = given.unwrap_or_else(|| numbered(&merges));
    let id = |token: &str| {
        let id = vocab.get(token).and_then(whole);
        id.with_context(|| format!("{}: no token {token}", folder.name("vocab.json")))
    };
    let (start, end) = (id(START)?, id(END)?);
    let special = |id: u64, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let mut added = vec![special(start, START), special(end, END)];
    for token in added_tokens(folder, &[START, END])? {
        // Beside the others, or it would get the next free id instead of its own.
        let content = token["content"].as_str().unwrap_or_default().to_string();
        vocab.entry(content).or_insert(token["id"].clone());
        added.push(token);
    }
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": CLIP_PATTERN}, "behavior": "Removed", "invert": true},
            byte_level,
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, end], "cls": [START, start],
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": merges},
    }))
}

/// The vocabulary as CLIP numbers it: bytes, bytes that end a word, what each merge makes, start and end.
fn numbered(merges: &[Vec<&str>]) -> Map<String, Value> {
    // Bytes as letters, those that are printable first (Radford et al. 2019).
    let printable = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let other = (0..=255u8).filter(|b| !printable(b)).enumerate().map(|(i, _)| 256 + i as u32);
    let letters: Vec<String> = (0..=255u8)
        .filter(printable)
        .map(u32::from)
        .chain(other)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect();
    let ends = letters.iter().map(|letter| format!("{letter}</w>"));
    let merged = merges.iter().map(|pair| pair.concat());
    let all = letters.iter().cloned().chain(ends).chain(merged).chain([START.into(), END.into()]);
    all.enumerate().map(|(id, token)| (token, id.into())).collect()
}

/// Tokens that were added to a vocabulary, but those `known`: of `added_tokens.json` ({token: id}), else of the
/// `added_tokens_decoder` in `tokenizer_config.json` ({id: token and how it is found}).
fn added_tokens(folder: &Folder, known: &[&str]) -> Result<Vec<Value>> {
    let (file, config) = ("added_tokens.json", "tokenizer_config.json");
    let mut tokens = BTreeMap::new();
    for (content, id) in optional(folder, file)? {
        let id = whole(&id).with_context(|| format!("{}: {content} has no id", folder.name(file)))?;
        let token = json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false});
        tokens.insert(id, token);
    }
    if let Some(Value::Object(decoder)) = optional(folder, config)?.remove("added_tokens_decoder") {
        for (id, mut token) in decoder {
            let number = id.parse().with_context(|| format!("{}: {id:?} is no id", folder.name(config)))?;
            let Some(fields) = token.as_object_mut() else {
                bail!("{}: the added token {id} is no object", folder.name(config));
            };
            fields.insert("id".into(), json!(number));
            fields.remove("__type");
            tokens.insert(number, token);
        }
    }
    tokens.retain(|_, token| !known.iter().any(|k| token["content"] == *k));
    Ok(tokens.into_values().collect())
}

/// The JSON object in a file; empty where there is none.
fn optional(folder: &Folder, file: &str) -> Result<Map<String, Value>> {
    if !folder.has(file) {
        return Ok(Map::new());
    }
    match text::json(&folder.text(file)?) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => bail!("{}: not a JSON object", folder.name(file)),
        Err(e) => bail!("{}: not valid JSON: {e}", folder.name(file)),
    }
}
