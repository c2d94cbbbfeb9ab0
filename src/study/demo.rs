//! The demo inside the program: a small data set, a Stable Diffusion and a CLIP in Hugging Face's layouts.
//! `weights/README.md` says where they come from.

use crate::data::folder::{Embedded, Folder};
use crate::data::write_atomic;
use crate::hub;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

include!(concat!(env!("OUT_DIR"), "/demo.rs"));

/// What configurations and flags call the demo's parts.
pub const BUILTIN: &str = "builtin";

/// Whether a configuration or flag names a part of the demo.
pub fn is_builtin(named: &Path) -> bool {
    named == Path::new(BUILTIN)
}

/// Where the run in `out` has its original images: in the folder that its configuration names, or, unpacked, in its own.
pub fn data(named: &Path, out: &Path) -> PathBuf {
    if is_builtin(named) { out.join("data") } else { named.to_path_buf() }
}

/// The folder that a configuration or flag names: a path, a name on the hub, or the demo's `part` (`stable-diffusion`, `clip`) for
/// `builtin`.
///
/// # Errors
/// As [`hub::path`].
pub fn folder(named: &Path, part: &str) -> Result<Folder> {
    match is_builtin(named) {
        true => Ok(Folder::from(DEMO as Embedded).sub(part)),
        false => Ok(Folder::from(hub::path(named)?.as_path())),
    }
}

/// Unpacks the demo's data set, DOMAIN/CLASS/image, as the folder `to`; does nothing where it is.
///
/// # Errors
/// A folder that cannot be written.
pub fn unpack_data(to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    // Beside its place first, so that a data set that is there is whole.
    let temp = PathBuf::from(format!("{}.tmp", to.display()));
    let _ = std::fs::remove_dir_all(&temp);
    for (path, bytes) in DEMO {
        if let Some(path) = path.strip_prefix("data/") {
            write_atomic(temp.join(path), bytes)?;
        }
    }
    std::fs::rename(&temp, to).with_context(|| format!("{}: cannot write", to.display()))
}
