//! Whether results fit the disk: asked before the work that makes them.

use anyhow::{Result, bail};
use std::path::Path;

/// Sees that the disk of `folder`, which need not be there yet, has room for `bytes` more.
///
/// # Errors
/// Less room than that.
pub fn room_for(folder: &Path, bytes: u64) -> Result<()> {
    let above = folder.ancestors().find(|path| path.exists());
    let place = above.filter(|path| *path != Path::new("")).unwrap_or(Path::new("."));
    // Some network drives do not say.
    let free = fs4::available_space(place).unwrap_or(u64::MAX);
    if free < bytes {
        let [free, bytes] = [free, bytes].map(|b| b.div_ceil(1 << 20));
        let folder = folder.display();
        bail!(
            "{folder}: needs about {bytes} MiB and the disk has {free} left: free some, or choose another place"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_for_folders_to_come_too() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [dir.path().to_path_buf(), dir.path().join("a/b"), "no-such-folder".into()] {
            room_for(&folder, 1).unwrap();
            let error = room_for(&folder, 1 << 62).unwrap_err().to_string();
            assert!(
                error.starts_with(&folder.display().to_string()) && error.contains("left: free some"),
                "{error}"
            );
        }
    }
}
