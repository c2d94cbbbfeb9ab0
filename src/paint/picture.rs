//! A picture to paint: a line of `prompts.jsonl`, which [`super::prompts`] writes and [`super::generate`] reads.

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

/// One picture to paint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Where it goes, below the output folder.
    #[serde(default)]
    pub file_name: String,
    /// What it shows.
    pub prompt: String,
    /// Decides its noise.
    pub seed: Option<u64>,
    /// Folder name of the domain, for the metadata.
    pub domain: Option<String>,
    /// Folder name of the class, for the metadata.
    pub class: Option<String>,
}

impl Picture {
    /// Sees that its file name is none of those `seen`, ends in .png and stays below the output folder.
    ///
    /// # Errors
    /// A name that is none of these, or a prompt with a zero byte.
    pub fn check(&self, seen: &mut HashSet<PathBuf>) -> Result<()> {
        let Picture { file_name, prompt, .. } = self;
        let path = PathBuf::from(file_name);
        let below = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !below || path.extension().is_none_or(|e| e != "png") || file_name.contains('\0') {
            bail!("file_name {file_name:?} must be the name of a .png file below the output folder");
        }
        if prompt.contains('\0') {
            bail!("the prompt of {file_name} contains a zero byte");
        }
        // Paths are compared by their parts: a//b.png is a/b.png.
        if !seen.insert(path) {
            bail!("file_name {file_name:?} is there twice");
        }
        Ok(())
    }
}

/// Reads `prompts.jsonl`. Rows without `file_name` go to `NUMBER.png`.
///
/// # Errors
/// A file that cannot be read, a line that is no such row; file and line are named.
pub fn read_pictures(path: &Path) -> Result<Vec<Picture>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot read the prompts", path.display()))?;
    let (mut pictures, mut seen) = (Vec::<Picture>::new(), HashSet::new());
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = || format!("{}, line {}", path.display(), i + 1);
        let mut picture: Picture = serde_json::from_slice(line).map_err(|e| {
            // The parser counts lines within the line.
            let what = e.to_string().replace(" at line 1 column", " at column");
            anyhow!("{}: {what}; a line is {{\"prompt\": .., \"file_name\": .., \"seed\": ..}}", place())
        })?;
        if picture.file_name.is_empty() {
            picture.file_name = format!("{:05}.png", pictures.len());
        }
        picture.check(&mut seen).with_context(place)?;
        pictures.push(picture);
    }
    if pictures.is_empty() {
        bail!("{}: no prompts in it", path.display());
    }
    Ok(pictures)
}
