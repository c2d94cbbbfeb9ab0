//! A folder of files: on disk, or inside the program. Models open either in the same way.

use super::checkpoint::Checkpoint;
use super::{text, weight_files};
use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files inside the program: path with `/`, contents.
pub type Embedded = &'static [(&'static str, &'static [u8])];

/// A folder on disk, or one inside the program.
#[derive(Clone, Debug)]
pub enum Folder {
    /// A path.
    Disk(PathBuf),
    /// Files inside the program whose paths start with the text, which is empty or ends in `/`.
    Embedded(Embedded, String),
}

impl From<&Path> for Folder {
    fn from(path: &Path) -> Self {
        Folder::Disk(path.to_path_buf())
    }
}

impl From<Embedded> for Folder {
    fn from(files: Embedded) -> Self {
        Folder::Embedded(files, String::new())
    }
}

impl Folder {
    /// What error messages call the file `file`, or, with an empty name, the folder.
    pub fn name(&self, file: &str) -> String {
        match self {
            Folder::Disk(path) if file.is_empty() => path.display().to_string(),
            Folder::Disk(path) => path.join(file).display().to_string(),
            Folder::Embedded(_, prefix) => format!("(program)/{prefix}{file}"),
        }
    }

    /// The folder `name` inside this one.
    pub fn sub(&self, name: &str) -> Folder {
        match self {
            Folder::Disk(path) => Folder::Disk(path.join(name)),
            Folder::Embedded(files, prefix) => Folder::Embedded(files, format!("{prefix}{name}/")),
        }
    }

    /// Names of the files and folders in it, sorted.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn entries(&self) -> Result<BTreeSet<String>> {
        match self {
            Folder::Disk(path) => {
                let read =
                    std::fs::read_dir(path).with_context(|| format!("{}: cannot read", path.display()))?;
                Ok(read.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
            }
            Folder::Embedded(files, prefix) => {
                let below = files.iter().filter_map(|(path, _)| path.strip_prefix(prefix.as_str()));
                Ok(below.filter_map(|rest| rest.split('/').next()).map(str::to_string).collect())
            }
        }
    }

    /// Whether it holds the file or folder `file`.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Folder::Disk(path) => path.join(file).exists(),
            Folder::Embedded(..) => self.entries().is_ok_and(|entries| entries.contains(file)),
        }
    }

    /// Contents of a file.
    ///
    /// # Errors
    /// A file that is not there or cannot be read.
    pub fn read(&self, file: &str) -> Result<Cow<'static, [u8]>> {
        match self {
            Folder::Disk(path) => {
                let bytes = std::fs::read(path.join(file));
                Ok(bytes.with_context(|| format!("{}: cannot read", self.name(file)))?.into())
            }
            Folder::Embedded(files, prefix) => {
                let wanted = format!("{prefix}{file}");
                match files.iter().find(|(path, _)| *path == wanted) {
                    Some((_, bytes)) => Ok((*bytes).into()),
                    None => bail!("{}: no such file", self.name(file)),
                }
            }
        }
    }

    /// Contents of a text file.
    ///
    /// # Errors
    /// As [`Folder::read`] and [`text::decode`].
    pub fn text(&self, file: &str) -> Result<String> {
        text::decode(&self.name(file), self.read(file)?.into_owned())
    }

    /// The safetensors file `file`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn tensors(&self, file: &str) -> Result<Checkpoint> {
        match self {
            Folder::Disk(path) => Checkpoint::open(path.join(file)),
            Folder::Embedded(..) => Checkpoint::from_bytes(&self.name(file), self.read(file)?),
        }
    }

    /// The model's weights in it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn weights(&self) -> Result<Checkpoint> {
        match self {
            Folder::Disk(path) => Checkpoint::open(path),
            Folder::Embedded(..) => match weight_files::FILES.iter().find(|f| self.has(f)) {
                Some(file) => self.tensors(file),
                None => bail!("{}: no weights in it", self.name("")),
            },
        }
    }
}
