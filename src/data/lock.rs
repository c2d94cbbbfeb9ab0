//! A folder belongs to one process: a lock on one of its files, which ends with the process.

use anyhow::{Result, bail};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Locks a file until it is closed: whether this file system has locks at all, or nothing if another process holds it.
pub fn try_lock(file: &File) -> Option<bool> {
    match file.try_lock() {
        Ok(()) => Some(true),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(_)) => Some(false),
    }
}

/// Makes this process the only one in `folder`, until `file`, a file in it, is closed. Where a file system has no locks, nothing is
/// locked.
///
/// # Errors
/// Another process holds it.
pub fn hold(folder: &Path, file: &File) -> Result<()> {
    match try_lock(file) {
        Some(_) => Ok(()),
        None => bail!(
            "{}: another process is working in this folder: wait for it, or choose another --out",
            folder.display()
        ),
    }
}
