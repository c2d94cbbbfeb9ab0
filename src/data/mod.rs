//! Files and numbers on the CPU: checkpoints, tokenizers, images, data sets, random draws. Nothing here knows of the GPU.

pub mod augment;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod dataset;
pub mod disk;
pub mod folder;
pub mod image;
pub mod images;
pub mod known;
pub mod lock;
pub mod packed;
pub mod preprocess;
pub mod python;
pub mod rng;
pub mod synthetic;
pub mod text;
pub mod tokenizer;
pub mod weight_files;

use anyhow::{Context, Result};
use std::path::Path;

/// Writes `bytes` to `path` so that the file appears whole or not at all: a temporary file beside it, then a rename.
/// Missing parent folders are made.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temp = path.with_file_name(name);
    let written = std::fs::write(&temp, bytes).and_then(|()| std::fs::rename(&temp, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    written.with_context(|| format!("{}: cannot write (is the disk full or read-only?)", path.display()))
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
    let probe = path.as_ref().join("probe");
    let probe = probe.with_extension(format!("{}.tmp", std::process::id()));
    write_atomic(&probe, b"0")?;
    let _ = std::fs::remove_file(probe);
    Ok(())
}

/// [N, C, H, W] as files and torch have it -> [N, H, W, C] as the device has it.
pub fn nchw_to_nhwc(x: &[f32], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    transpose_last(x, n, c, h * w)
}

/// [N, H, W, C] -> [N, C, H, W].
pub fn nhwc_to_nchw(x: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    transpose_last(x, n, h * w, c)
}

/// [n, a, b] -> [n, b, a].
fn transpose_last(x: &[f32], n: usize, a: usize, b: usize) -> Vec<f32> {
    assert_eq!(x.len(), n * a * b, "{n} x {a} x {b} elements");
    let mut out = Vec::with_capacity(x.len());
    for image in x.chunks_exact((a * b).max(1)) {
        for j in 0..b {
            out.extend((0..a).map(|i| image[i * b + j]));
        }
    }
    out
}

/// The name of a folder in words: `art_painting` becomes `art painting`.
pub fn spaced(folder: &str) -> String {
    let words = folder.split(['_', '-', ' ']).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// A message of another library on one line, as all errors here are.
pub fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
