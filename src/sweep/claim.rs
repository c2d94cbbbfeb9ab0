//! A job is run by one process at a time, on one machine or several that share a file system. `claim.json` in the job's folder names
//! the holder. On one machine a file lock tells whether that process is alive; locks may not work across machines, so the holder also
//! touches the file every 30 seconds, and a claim that was not touched for five minutes is void.
//!
//! The file of an unfinished job is emptied, not deleted: otherwise a process that opens it while another releases it would hold a lock
//! on a deleted file.

use crate::data::lock::try_lock;
use crate::data::make_folder;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

const BEAT: Duration = Duration::from_secs(30);
const STALE: Duration = Duration::from_secs(300);

/// The right to run a job, until it is dropped.
pub struct Claim {
    folder: PathBuf,
    file: File,
    /// The thread that touches the file, and how to end it.
    beat: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Claim {
    /// Claims the job with this folder, which is made; none if another process has it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn take(folder: &Path) -> Result<Option<Claim>> {
        make_folder(folder)?;
        let path = path(folder);
        let cannot = || format!("{}: cannot write (is the disk full or read-only?)", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.with_context(cannot)?;
        let Some(locked) = free(&mut file) else { return Ok(None) };
        let own = json!({"host": host(), "pid": std::process::id(), "since": seconds_now()}).to_string();
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(own.as_bytes())?;
            file.set_modified(SystemTime::now())
        };
        write(&mut file).with_context(cannot)?;
        if !locked {
            // Another process may have done the same at the same time: the last one has it.
            std::thread::sleep(Duration::from_secs(2));
            if std::fs::read_to_string(&path).ok() != Some(own) {
                return Ok(None);
            }
        }
        let (end, ended) = channel();
        let touched = file.try_clone().with_context(cannot)?;
        let beat = std::thread::spawn(move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                let _ = touched.set_modified(SystemTime::now());
            }
        });
        Ok(Some(Claim { folder: folder.into(), file, beat: Some((end, beat)) }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((end, beat)) = self.beat.take() {
            drop(end);
            let _ = beat.join();
        }
        let _ = self.file.set_len(0);
        // A job that is done needs no claim.
        if self.folder.join("done").exists() {
            let _ = std::fs::remove_file(path(&self.folder));
        }
    }
}

/// Whether some process has the job with this folder.
pub fn is_held(folder: &Path) -> bool {
    // Some file systems lock only files that are open for writing.
    let file = File::options().read(true).write(true).open(path(folder));
    match file.or_else(|_| File::open(path(folder))) {
        Ok(mut file) => free(&mut file).is_none(),
        Err(_) => false,
    }
}

/// Who has the job with this folder: `process 12 on host a`.
pub fn holder(folder: &Path) -> String {
    let held: Value = std::fs::read(path(folder))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    format!("process {} on {}", held["pid"], held["host"].as_str().unwrap_or("another host"))
}

fn path(folder: &Path) -> PathBuf {
    folder.join("claim.json")
}

/// Locks a claim that nobody holds: whether this file system has locks, or nothing if somebody holds it.
fn free(file: &mut File) -> Option<bool> {
    let locked = try_lock(file)?;
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    if text.is_empty() {
        return Some(locked);
    }
    // The lock of a process on this machine ends with it.
    let held: Value = serde_json::from_str(&text).unwrap_or_default();
    if locked && held["host"].as_str() == Some(&host()) {
        return Some(locked);
    }
    // Clocks differ: a time in the future counts as now.
    let touched = file.metadata().and_then(|m| m.modified()).ok();
    let age = touched.and_then(|t| t.elapsed().ok()).unwrap_or_default();
    (age > STALE).then_some(locked)
}

/// Name of this machine.
pub fn host() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let job = dir.path().join("job");
        assert!(!is_held(&job));
        let claim = Claim::take(&job).unwrap().unwrap();
        assert!(is_held(&job) && Claim::take(&job).unwrap().is_none());
        assert_eq!(holder(&job), format!("process {} on {}", std::process::id(), host()));
        drop(claim);
        assert!(!is_held(&job));
        let again = Claim::take(&job).unwrap().unwrap();
        std::fs::write(job.join("done"), "done").unwrap();
        drop(again);
        assert!(!path(&job).exists());
    }

    #[test]
    fn claims_of_other_hosts_hold_while_they_are_touched() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str, age: u64| {
            std::fs::write(path(dir.path()), text).unwrap();
            let file = File::options().write(true).open(path(dir.path())).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        let other = r#"{"host": "elsewhere", "pid": 1, "since": 0}"#;
        for (text, age, held) in
            [(other, 0, true), (other, 600, false), ("{torn", 0, true), ("{torn", 600, false)]
        {
            write(text, age);
            assert_eq!(is_held(dir.path()), held, "{text}, {age} s old");
            assert_eq!(Claim::take(dir.path()).unwrap().is_none(), held);
        }
        // A dead process of this host.
        write(&json!({"host": host(), "pid": 1, "since": 0}).to_string(), 0);
        assert!(Claim::take(dir.path()).unwrap().is_some());
    }
}
