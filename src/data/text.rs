//! Texts as other programs leave them: with a byte order mark, in UTF-16, with Python's NaN in their JSON, or something else in
//! their place.

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// What lies in place of a file whose contents were left elsewhere, and what to do.
///
/// ```
/// let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:..";
/// assert!(kaleid::data::text::stand_in(pointer).unwrap().starts_with("a Git LFS pointer"));
/// ```
pub fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let starts =
        |with: &str| start.get(..with.len()).is_some_and(|s| s.eq_ignore_ascii_case(with.as_bytes()));
    if starts("version https://git-lfs") {
        return Some("a Git LFS pointer, not the file: run `git lfs pull` where it was cloned");
    }
    if starts("<!doctype html") || starts("<html") {
        return Some("a web page, not the file: download the file itself");
    }
    bytes.is_empty().then_some("an empty file: download it again")
}

/// The text of `bytes` without its byte order mark; `name` is what errors call the file.
///
/// # Errors
/// UTF-16 and other encodings, by name; what lies in place of a file.
pub fn decode(name: &str, bytes: Vec<u8>) -> Result<String> {
    if let Some(what) = stand_in(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(anyhow!("{name}: {what}"));
    }
    // A Latin letter of UTF-16 has a byte of 0, which no text in UTF-8 has.
    let utf16 = [b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| bytes.starts_with(*mark));
    if utf16 || bytes.iter().take(64).any(|&b| b == 0) {
        return Err(anyhow!("{name}: a text in UTF-16 or no text at all; save it as UTF-8"));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|e| {
        let bytes = e.as_bytes();
        let line = bytes[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        anyhow!("{name}, line {line}: not a text in UTF-8; save it as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// The text of a file, as [`decode`] reads it.
///
/// # Errors
/// As [`decode`]; a file that cannot be read.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let name = path.as_ref().display().to_string();
    decode(&name, std::fs::read(&path).with_context(|| format!("{name}: cannot read"))?)
}

/// The values of a file with one in each line; none where there is no file.
///
/// # Errors
/// A line that is something else; file and line are named.
pub fn rows<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    if !file.exists() {
        return Ok(vec![]);
    }
    let text = read(file)?;
    let mut rows = vec![];
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match json(line) {
            Ok(row) => rows.push(row),
            Err(e) => bail!("{}, line {}: {e}", file.display(), i + 1),
        }
    }
    Ok(rows)
}

/// What a JSON text says. Python's bare `NaN`, `Infinity` and `-Infinity` are read as texts of these words, since JSON has no
/// such numbers.
///
/// # Errors
/// The parser's.
pub fn json<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|e| match quoted_words(text) {
        quoted if quoted == text => Err(e),
        quoted => serde_json::from_str(&quoted),
    })
}

/// A whole number from 0; 42.0 is one too, since tables that were written by pandas know no others beside empty places.
pub fn whole(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).map(|f| f as u64);
    value.as_u64().or_else(float)
}

/// The text with quotes around Python's words for numbers that are not finite.
fn quoted_words(text: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(text.len()), false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|w| !quoted && rest.starts_with(w));
        if let Some(word) = word {
            out += &format!("\"{word}\"");
            rest = &rest[word.len()..];
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_words_are_texts_outside_of_texts() {
        let line = r#"{"a": NaN, "b": [-Infinity, Infinity], "NaN \" NaN": "Infinity"}"#;
        let value = serde_json::json!({"a": "NaN", "b": ["-Infinity", "Infinity"], "NaN \" NaN": "Infinity"});
        assert_eq!(json::<Value>(line).unwrap(), value);
        assert!(json::<Value>("{\"a\": nan}").is_err());
    }

    #[test]
    fn marks_are_skipped_and_other_encodings_named() {
        let decode = |bytes: &[u8]| decode("p.jsonl", bytes.to_vec()).map_err(|e| e.to_string());
        assert_eq!(decode(b"\xef\xbb\xbf{}").unwrap(), "{}");
        assert_eq!(decode(b"").unwrap(), "");
        assert!(decode(b"\xff\xfe{\0}\0").unwrap_err().contains("UTF-16"));
        assert!(decode(b"{\0}\0").unwrap_err().contains("UTF-16"));
        assert_eq!(
            decode(b"a\nb\xe9").unwrap_err(),
            "p.jsonl, line 2: not a text in UTF-8; save it as UTF-8"
        );
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        assert!(decode(pointer).unwrap_err().contains("git lfs pull"));
        assert!(decode(b"\n<!DOCTYPE html><html>").unwrap_err().contains("a web page"));
    }
}
