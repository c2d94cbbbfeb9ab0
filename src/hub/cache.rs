//! The layout of the cache (huggingface_hub's): `models--OWNER--NAME/` with `blobs/ETAG`, `snapshots/COMMIT/FILE` as links to them, and
//! `refs/REVISION`, which says the commit.

use super::Name;
use anyhow::{Context, Result, bail};
use std::env::var;
use std::path::{Path, PathBuf};

/// A repository's folder in the cache.
pub struct Cache {
    root: PathBuf,
    folder: PathBuf,
}

/// The folder that Hugging Face's tools keep things in.
fn home() -> Option<PathBuf> {
    let set = |name: &str| var(name).ok().filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HOME")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(dirs::home_dir()?.join(".cache/huggingface")))
}

/// Whether nothing may be fetched.
pub fn is_offline() -> bool {
    let is_set =
        |name: &str| var(name).is_ok_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));
    is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE")
}

/// What shows the hub who asks; never printed.
pub fn token() -> Option<String> {
    let given = var("HF_TOKEN").or(var("HUGGING_FACE_HUB_TOKEN")).ok();
    let file = || {
        let path = var("HF_TOKEN_PATH").ok().map(PathBuf::from).or(home().map(|home| home.join("token")))?;
        std::fs::read_to_string(path).ok()
    };
    let token = given.or_else(file)?.trim().to_string();
    (!token.is_empty()).then_some(token)
}

impl Cache {
    /// The folder of a repository.
    ///
    /// # Errors
    /// No home to keep it in.
    pub fn of(name: &Name) -> Result<Cache> {
        let set = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(|name| var(name).ok());
        let root = set.map(PathBuf::from).or(home().map(|home| home.join("hub")));
        let root = root.context("no home folder: set HF_HOME to where models may be kept")?;
        let kind = if name.is_dataset { "datasets" } else { "models" };
        let folder = root.join(format!("{kind}--{}", name.repository.replace('/', "--")));
        Ok(Cache { root, folder })
    }

    /// The commit that a revision was when it was last fetched.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_string());
        }
        let text = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Notes that a revision is this commit.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        match is_commit(revision) {
            true => Ok(()),
            false => crate::data::write_atomic(self.folder.join("refs").join(revision), commit.as_bytes()),
        }
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The contents that have this name.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// A file that is held while such contents are fetched.
    pub fn lock(&self, etag: &str) -> PathBuf {
        let name = self.folder.file_name().unwrap_or_default();
        self.root.join(".locks").join(name).join(format!("{etag}.lock"))
    }

    /// Where contents are while they come.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.kaleid.incomplete"))
    }

    /// Makes `file` of a commit lead to its contents: a link, or a copy where there are no links.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let place = self.snapshot(commit).join(file);
        let cannot = || format!("{}: cannot write", place.display());
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).with_context(cannot)?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let _ = std::fs::remove_file(&place);
        if symlink(Path::new(&format!("{up}blobs/{etag}")), &place).is_err() {
            std::fs::copy(self.blob(etag), &place).with_context(cannot)?;
        }
        Ok(())
    }
}

/// Whether a revision is a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(unix)]
fn symlink(to: &Path, place: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, place)
}

#[cfg(windows)]
fn symlink(to: &Path, place: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(to, place)
}

/// Sees that what a server names contents by is a plain word: another might lead out of the folder.
///
/// # Errors
/// Another name.
pub fn check_etag(etag: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match (1..=128).contains(&etag.len()) && etag.bytes().all(plain) && !etag.starts_with('.') {
        true => Ok(()),
        false => bail!("the server names its contents {etag:?}, which cannot be the name of a file"),
    }
}
