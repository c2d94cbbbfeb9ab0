//! A run that other processes watch and pause, by two files in its folder.

use super::{Stage, active};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// In the folder of a run that goes on: what it does, written every second, so that a killed one is known by its age.
const WATCHED: &str = "progress.json";
/// While this file is there, the run waits between two steps.
const PAUSE: &str = "pause";

/// What progress.json holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watched {
    /// When it was written: seconds since 1970.
    at: f64,
    /// What goes on.
    pub active: Vec<Stage>,
}

/// While this lives, other processes can watch and pause the run in its folder.
pub struct Watch {
    folder: PathBuf,
    over: Arc<(Mutex<bool>, Condvar)>,
    writer: Option<std::thread::JoinHandle<()>>,
}

static PAUSED_BY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What makes this process wait while it is there.
pub(super) fn pause_file() -> Option<PathBuf> {
    paused_by().clone()
}

fn paused_by() -> MutexGuard<'static, Option<PathBuf>> {
    PAUSED_BY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Of the run in `folder`. A pause that an earlier process was in is over.
    pub fn new(folder: &Path) -> Watch {
        let _ = resume(folder);
        *paused_by() = Some(folder.join(PAUSE));
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (file, until) = (folder.join(WATCHED), over.clone());
        let writer = std::thread::spawn(move || {
            let mut is_over = until.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*is_over {
                let now =
                    Watched { at: seconds_since_1970(), active: active().iter().map(|c| c.now()).collect() };
                // Nobody has to watch: a file that cannot be written stops no run.
                let (temp, json) = (file.with_extension("tmp"), serde_json::to_vec(&now).unwrap_or_default());
                let _ = std::fs::write(&temp, json).and_then(|()| std::fs::rename(temp, &file));
                let wait = until.1.wait_timeout(is_over, Duration::from_secs(1));
                is_over = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        Watch { folder: folder.to_path_buf(), over, writer: Some(writer) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *paused_by() = None;
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        let _ = self.writer.take().map(std::thread::JoinHandle::join);
        let _ = std::fs::remove_file(self.folder.join(WATCHED));
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What the run in `folder` does; nothing if none goes on.
pub fn watched(folder: &Path) -> Option<Watched> {
    let watched: Watched = serde_json::from_slice(&std::fs::read(folder.join(WATCHED)).ok()?).ok()?;
    ((seconds_since_1970() - watched.at).abs() < 5.0).then_some(watched)
}

/// Whether the run in `folder` is to wait.
pub fn is_paused(folder: &Path) -> bool {
    folder.join(PAUSE).exists()
}

/// Makes the run in `folder` wait between two steps, until [`resume`].
///
/// # Errors
/// A folder that cannot be written into.
pub fn pause(folder: &Path) -> Result<()> {
    let file = folder.join(PAUSE);
    std::fs::write(&file, "").with_context(|| format!("{}: cannot write", file.display()))
}

/// Makes it go on.
///
/// # Errors
/// A file that cannot be removed.
pub fn resume(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(folder.join(PAUSE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
