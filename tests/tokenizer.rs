//! Tokenizers: those whose files are wrong say so in one line. What right ones return is a golden: `kaleid verify`.

use kaleid::data::folder::Folder;
use kaleid::data::tokenizer::{self, Tokenizer};
use std::path::Path;

fn open(folder: &Path) -> anyhow::Result<Tokenizer> {
    Tokenizer::open(&Folder::from(folder))
}

#[test]
fn a_tokenizer_json_is_read_and_its_own_length_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "WordLevel", "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<s>": 1, "a": 2, "red": 3, "bird": 4}}}"#;
    std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    let mut tokenizer = open(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("A red wet bird").unwrap(), [1, 2, 3, 0, 4]);
    assert_eq!(tokenizer.encode_raw("<s>bird").unwrap(), [1, 4]);
    assert_eq!(tokenizer.decode(&[1, 3, 4]).unwrap(), "red bird");
    assert_eq!((tokenizer.id("red"), tokenizer.vocab_size()), (Some(3), 5));
    assert!(format!("{:#}", tokenizer.pad_to(6).unwrap_err()).contains("no padding token"));
    std::fs::write(dir.path().join("special_tokens_map.json"), r#"{"pad_token": {"content": "<unk>"}}"#)
        .unwrap();
    let mut tokenizer = open(dir.path()).unwrap();
    tokenizer.pad_to(4).unwrap();
    assert_eq!(tokenizer.encode("a").unwrap(), [1, 2, 0, 0]);
    assert_eq!(tokenizer.encode("a red bird a").unwrap(), [1, 2, 3, 4]);
}

/// CLIP's tokenizer of a few letters, with more files.
fn clip(folder: &Path, files: &[(&str, &str)]) -> Tokenizer {
    let vocab =
        r#"{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6}"#;
    for (name, text) in
        [("vocab.json", vocab), ("merges.txt", "#version: 0.2\na b</w>\n")].iter().chain(files)
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    open(folder).unwrap()
}

#[test]
fn tokens_that_were_added_to_a_vocabulary_keep_their_ids() {
    let decoder = r#"{"added_tokens_decoder": {"5": {"content": "<|startoftext|>", "special": true, "lstrip": false, "rstrip": false,
        "normalized": true, "single_word": false}, "9": {"__type": "AddedToken", "content": "<cat>", "special": false, "lstrip": false,
        "rstrip": false, "normalized": false, "single_word": false}}}"#;
    for files in [[("added_tokens.json", r#"{"<cat>": 9}"#)], [("tokenizer_config.json", decoder)]] {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = clip(dir.path(), &files);
        assert_eq!(tokenizer.encode("ab <cat>b").unwrap(), [5, 4, 9, 3, 6], "{files:?}");
        assert_eq!(tokenizer.encode("a").unwrap(), [5, 2, 6]);
    }
}

#[test]
fn what_is_cut_off_is_known_by_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut tokenizer = clip(dir.path(), &[]);
    tokenizer.pad_to(5).unwrap();
    assert_eq!(tokenizer.lost("a b ab").unwrap(), "");
    assert_eq!(tokenizer.lost("A  b ab, a AB").unwrap(), ", a AB");
    assert_eq!(tokenizer.lost("a b b a b a b a, é ab").unwrap(), "a b a b a, é ab");
    assert_eq!(tokenizer.encode("a b b a").unwrap(), [5, 2, 3, 3, 6]);
    assert_eq!(tokenizer.lost("").unwrap(), "");
}

#[test]
fn broken_tokenizers_say_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let error = |files: &[(&str, &str)]| {
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let text = format!("{:#}", open(dir.path()).err().expect("an error"));
        assert!(!text.contains('\n'), "{text}");
        text
    };
    assert!(error(&[]).contains("neither tokenizer.json nor vocab.json"));
    assert!(error(&[("vocab.json", "{\"a\": 0")]).contains("vocab.json: not valid JSON"));
    let vocab = r#"{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}"#;
    assert!(error(&[("vocab.json", vocab)]).contains("merges.txt: cannot read"));
    assert!(error(&[("merges.txt", "#version: 0.2\na b c\n")]).contains("\"a b c\" is not a pair"));
    assert!(error(&[("merges.txt", "#version: 0.2\na b</w>\n")]).contains("vocab.json: not a tokenizer"));
    assert!(error(&[("vocab.json", "{\"a\": 0}")]).contains("no token <|startoftext|>"));
    assert!(error(&[("tokenizer.json", "{}")]).contains("tokenizer.json: not a tokenizer"));
    // The crate panics at these two.
    for broken in [
        r#"{"decoder": {"type": "ByteLevel"|}}"#,
        r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}"#,
    ] {
        assert!(error(&[("tokenizer.json", broken)]).contains("tokenizer.json: not a tokenizer"));
    }
}

#[test]
fn clips_own_tokenizer_follows_from_its_merges() {
    let of = |files| Tokenizer::open(&Folder::from(files)).unwrap();
    let mut first = of(tokenizer::CLIP);
    assert_eq!(first.vocab_size(), 49408);
    // As transformers has them.
    let want = [49406, 320, 1125, 539, 320, 2368, 49407];
    assert_eq!(first.encode("a photo of a cat").unwrap(), want);
    first.pad_to(9).unwrap();
    assert_eq!(first.encode("a photo of a cat").unwrap()[6..], [49407, 49407, 49407]);
    let mut second = of(tokenizer::OPEN_CLIP);
    second.pad_to(9).unwrap();
    assert_eq!(second.encode("a photo of a cat").unwrap()[6..], [49407, 0, 0]);
}
