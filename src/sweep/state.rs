//! Where a job stands, as its folder tells, and how it went: `job.json`.

use super::claim;
use crate::data::write_atomic;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has its results.
    Done,
    /// A process works on it.
    Running,
    /// It has started, and stopped before its end.
    Incomplete,
    /// It failed twice; job.json says why.
    Failed,
    /// It has no folder yet.
    NotLaunched,
}

impl State {
    /// All, in the order of tables.
    pub const ALL: [State; 5] =
        [State::Done, State::Running, State::Incomplete, State::Failed, State::NotLaunched];

    /// `done`, `running`, `incomplete`, `failed`, `not launched`.
    pub fn name(self) -> &'static str {
        ["done", "running", "incomplete", "failed", "not launched"][self as usize]
    }

    /// The state of the job with this folder.
    pub fn of(folder: &Path) -> State {
        if folder.join("done").exists() {
            return State::Done;
        }
        if claim::is_held(folder) {
            return State::Running;
        }
        match Log::read(folder).error {
            Some(_) => State::Failed,
            None if folder.exists() => State::Incomplete,
            None => State::NotLaunched,
        }
    }
}

/// How a job went: job.json in its folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Name of the adapter.
    pub adapter: String,
    /// Name of the machine.
    pub host: String,
    /// Seconds of work, except in processes that were killed.
    pub seconds: f64,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Log {
    /// The log of the job with this folder; an empty one if there is none.
    pub fn read(folder: &Path) -> Log {
        let bytes = std::fs::read(folder.join("job.json")).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomic(folder.join("job.json"), (serde_json::to_string_pretty(self)? + "\n").as_bytes())
    }
}
