//! A picture to paint: a line of `prompts.jsonl`, which [`super::prompts`] writes and [`super::generate`] reads.

use crate::data::stays_below;
use crate::data::text::{self, whole};
use anyhow::{Context, Result, anyhow, bail};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// One picture to paint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Where it goes, below the output folder.
    #[serde(default, deserialize_with = "or_default")]
    pub file_name: String,
    /// What it shows.
    pub prompt: String,
    /// Decides its noise.
    #[serde(default, deserialize_with = "seed")]
    pub seed: Option<u64>,
    /// Folder name of the domain, for the metadata.
    pub domain: Option<String>,
    /// Folder name of the class, for the metadata.
    pub class: Option<String>,
    /// The image that it is painted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// The original that its prompt describes, DOMAIN/CLASS/image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<String>,
}

/// A text, or null in place of none.
fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A whole number, or 42.0, or null.
fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(None),
        Some(v) => whole(&v)
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("seed = {v} is no whole number from 0"))),
    }
}

/// The longest name of a file or folder on the file systems of today, in bytes.
const LONGEST_NAME: usize = 255;

impl Picture {
    /// Sees that its file name ends in .png, stays below the output folder, and can be written.
    fn check(&self) -> Result<()> {
        let Picture { file_name, prompt, .. } = self;
        let path = Path::new(file_name);
        if !stays_below(path) || path.extension().is_none_or(|e| e != "png") {
            bail!("file_name {file_name:?} must be the name of a .png file below the output folder");
        }
        if file_name.contains(char::is_control) {
            bail!("file_name {file_name:?} holds control characters");
        }
        if let Some(part) = path.iter().find(|part| part.len() > LONGEST_NAME) {
            bail!("file_name {file_name:?}: a name of {} bytes; the longest is {LONGEST_NAME}", part.len());
        }
        if prompt.contains('\0') {
            bail!("the prompt of {file_name} contains a zero byte");
        }
        Ok(())
    }
}

/// The names of pictures so far.
#[derive(Default)]
pub struct Names {
    files: HashSet<PathBuf>,
    folders: HashSet<PathBuf>,
}

impl Names {
    /// Adds a picture's name, which must be new, end in .png, stay below the output folder, and be one that can be written.
    ///
    /// # Errors
    /// A name that is none of these, or a prompt with a zero byte.
    pub fn add(&mut self, picture: &Picture) -> Result<()> {
        picture.check()?;
        // Paths are compared by their parts: a//b.png is a/b.png.
        let (name, path) = (&picture.file_name, PathBuf::from_iter(Path::new(&picture.file_name)));
        let above = || path.ancestors().skip(1).filter(|a| *a != Path::new(""));
        if self.folders.contains(&path) || above().any(|a| self.files.contains(a)) {
            bail!("file_name {name:?} is a picture and a folder of pictures");
        }
        self.folders.extend(above().map(Path::to_path_buf));
        if !self.files.insert(path) {
            bail!("file_name {name:?} is there twice");
        }
        Ok(())
    }
}

/// Reads `prompts.jsonl`. Rows without `file_name` go to `NUMBER.png`.
///
/// # Errors
/// A file that cannot be read, a line that is no such row; file and line are named.
pub fn read_pictures(path: &Path) -> Result<Vec<Picture>> {
    let (mut pictures, mut names) = (Vec::<Picture>::new(), Names::default());
    let text = text::read(path)?;
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", path.display(), i + 1);
        let mut picture: Picture = text::json(line).map_err(|e| {
            // The parser counts lines within the line.
            let what = e.to_string().replace(" at line 1 column", " at column");
            anyhow!("{}: {what}; a line is {{\"prompt\": .., \"file_name\": .., \"seed\": ..}}", place())
        })?;
        if picture.file_name.is_empty() {
            picture.file_name = format!("{:05}.png", pictures.len());
        }
        names.add(&picture).with_context(place)?;
        pictures.push(picture);
    }
    if pictures.is_empty() {
        bail!("{}: no prompts in it", path.display());
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Picture>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prompts.jsonl");
        std::fs::write(&file, text).unwrap();
        read_pictures(&file).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn what_pandas_and_windows_editors_write_is_read() {
        let pictures = read(
            b"\xef\xbb\xbf{\"prompt\": \"a\", \"file_name\": null, \"seed\": 42.0, \"class\": null}\r\n{\"prompt\": \"b\", \"seed\": null, \"score\": NaN}",
        )
        .unwrap();
        assert_eq!((pictures[0].file_name.as_str(), pictures[0].seed), ("00000.png", Some(42)));
        assert_eq!((pictures[1].file_name.as_str(), pictures[1].seed), ("00001.png", None));
        assert!(read(b"\xff\xfe{\0}\0").unwrap_err().contains("UTF-16"));
        for seed in ["-1", "1.5", "\"x\"", "1e300", "NaN"] {
            let error = read(format!("{{\"prompt\": \"a\", \"seed\": {seed}}}").as_bytes()).unwrap_err();
            assert!(error.contains("line 1: seed = ") && error.contains("no whole number from 0"), "{error}");
        }
    }

    #[test]
    fn names_are_those_that_can_be_written() {
        let name =
            |name: &str| read(serde_json::json!({"prompt": "a", "file_name": name}).to_string().as_bytes());
        let long = |n: usize| "x".repeat(n) + ".png";
        assert!(name(&long(251)).is_ok() && name(&format!("{}/{}", "é".repeat(127), long(251))).is_ok());
        assert!(name(&long(252)).unwrap_err().contains("a name of 256 bytes; the longest is 255"));
        assert!(name(&format!("{}/a.png", "é".repeat(128))).unwrap_err().contains("a name of 256 bytes"));
        assert!(name("two\nlines.png").unwrap_err().contains("control characters"));
        for (a, b) in [("a.png", "a.png/b.png"), ("a.png/b.png", "a.png")] {
            let lines =
                [a, b].map(|n| serde_json::json!({"prompt": "a", "file_name": n}).to_string()).join("\n");
            assert!(read(lines.as_bytes()).unwrap_err().contains("line 2: file_name"), "{a} {b}");
        }
    }
}
