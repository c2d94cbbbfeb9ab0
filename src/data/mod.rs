//! Files and numbers on the CPU: checkpoints, tokenizers, images, data sets, random draws. Nothing here knows of the GPU.

pub mod augment;
pub mod blocks;
pub mod check;
pub mod checkpoint;
pub mod chosen;
pub mod config;
pub mod dataset;
pub mod decode;
pub mod disk;
pub mod elements;
pub mod folder;
pub mod gguf_tokenizer;
pub mod http;
pub mod image;
pub mod images;
pub mod known;
pub mod lock;
pub mod packed;
pub mod parquet;
pub mod preprocess;
pub mod python;
pub mod rng;
pub mod stats;
pub mod synthetic;
pub mod text;
mod tiff;
pub mod tokenizer;
pub mod weight_files;

use anyhow::{Context, Result};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Writes `bytes` to `path` so that the file appears whole or not at all: a temporary file beside it, then a rename.
/// Missing parent folders are made.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    // Short, whatever the file is called: names have a longest length.
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let temp = format!(".kaleid-{}-{}.tmp", std::process::id(), WRITTEN.fetch_add(1, Relaxed));
    let temp = path.with_file_name(temp);
    let written = std::fs::write(&temp, bytes).and_then(|()| std::fs::rename(&temp, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    written.with_context(|| format!("{}: cannot write (is the disk full or read-only?)", path.display()))
}

/// Whether a path, joined to a folder, stays below it: it is made of names alone.
pub fn stays_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes a folder and those above it, where they are missing.
///
/// # Errors
/// A place where no folder can be.
pub fn make_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let made = std::fs::create_dir_all(path);
    made.with_context(|| format!("{}: cannot make the folder; choose another place", path.display()))
}

/// Makes a folder and sees that files can be written into it, before long work depends on it.
///
/// # Errors
/// A place where no folder can be, or no file in it.
pub fn writable_folder(path: impl AsRef<Path>) -> Result<()> {
    let probe = path.as_ref().join(format!(".kaleid-{}-probe.tmp", std::process::id()));
    write_atomic(&probe, b"0")?;
    let _ = std::fs::remove_file(probe);
    Ok(())
}

/// A file's name below the folder `root`, with / between its parts.
pub fn below(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// [N, C, H, W] as files and torch have it -> [N, H, W, C] as the device has it.
pub fn nchw_to_nhwc<T: Copy>(x: &[T], [n, c, h, w]: [usize; 4]) -> Vec<T> {
    transpose_last(x, n, c, h * w)
}

/// [N, H, W, C] -> [N, C, H, W].
pub fn nhwc_to_nchw(x: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    transpose_last(x, n, h * w, c)
}

/// [n, a, b] -> [n, b, a].
fn transpose_last<T: Copy>(x: &[T], n: usize, a: usize, b: usize) -> Vec<T> {
    assert_eq!(x.len(), n * a * b, "{n} x {a} x {b} elements");
    let mut out = Vec::with_capacity(x.len());
    for image in x.chunks_exact((a * b).max(1)) {
        for j in 0..b {
            out.extend((0..a).map(|i| image[i * b + j]));
        }
    }
    out
}

/// The name of a folder in words: `art_painting` becomes `art painting`, `TrashCan` `trash can`.
pub fn spaced(folder: &str) -> String {
    let (mut words, mut is_camel, mut before) = (String::new(), false, ' ');
    for c in folder.chars() {
        let humps = before.is_lowercase() && c.is_uppercase();
        is_camel |= humps;
        let is_gap = ['_', '-', ' '].contains(&c);
        if (is_gap || humps) && !words.ends_with(' ') {
            words.push(' ');
        }
        if !is_gap {
            words.push(c);
        }
        before = c;
    }
    if is_camel { words.trim().to_lowercase() } else { words.trim().to_string() }
}

/// Whether a name holds a word, which a painter could paint: `0` and `n01440764` hold none.
pub fn has_word(name: &str) -> bool {
    let runs = name.split(|c: char| !c.is_alphabetic());
    runs.into_iter().any(|run| run.chars().count() > 1 || !run.is_ascii())
}

/// A text on one line, whatever a file's name holds: control characters are written out.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// What is said of a link that leads nowhere.
const NOWHERE: &str = "a link that leads nowhere; is its disk mounted?";

/// A message of another library on one line, as all errors here are.
pub fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_names_in_words() {
        for (folder, words) in [
            ("art_painting", "art painting"),
            ("Alarm_Clock", "Alarm Clock"),
            ("TrashCan", "trash can"),
            ("TV", "TV"),
            ("T-Shirt", "T Shirt"),
            ("3d_render", "3d render"),
            ("__x  y_", "x y"),
            ("ÉcoleMaternelle", "école maternelle"),
        ] {
            assert_eq!(spaced(folder), words);
        }
        assert!(["TV", "dog (copy)", "猫", "n0 cat"].iter().all(|name| has_word(name)));
        assert!(!["0", "n01440764", "c1", "_", ""].iter().any(|name| has_word(name)));
    }

    #[test]
    fn names_of_any_length_are_written_and_control_characters_written_out() {
        let dir = tempfile::tempdir().unwrap();
        let name = "é".repeat(125) + ".png!";
        assert_eq!(name.len(), 255);
        write_atomic(dir.path().join(&name), b"1").unwrap();
        assert!(write_atomic(dir.path().join(name + "x"), b"1").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left of what failed");
        assert_eq!(printable("two\nlines \u{1b}[31mé"), "two\\nlines \\u{1b}[31mé");
    }
}
