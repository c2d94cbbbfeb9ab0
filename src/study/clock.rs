//! How long the stages took: `stages.json`.

use crate::data::write_atomic;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The stages of a run, in order.
pub const STAGES: [&str; 6] = ["data", "prompts", "images", "select", "score", "training"];

/// What `stages.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Stages {
    /// Name of the adapter.
    pub adapter: String,
    /// Version of Kaleid.
    pub version: String,
    /// Seconds of each stage, summed over interruptions. What a killed process spent in its last stage is missing.
    pub seconds: BTreeMap<String, f64>,
}

/// Times the stages of a run.
pub struct Clock {
    file: PathBuf,
    stages: Stages,
}

impl Clock {
    /// The clock of the run in `out`, which counts on where an earlier process stopped.
    pub fn open(out: &Path, adapter: &str) -> Clock {
        let file = out.join("stages.json");
        // Times are only shown, so a file that cannot be read is replaced.
        let held: Option<Stages> =
            std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let seconds = held.unwrap_or_default().seconds;
        let stages = Stages { adapter: adapter.into(), version: env!("CARGO_PKG_VERSION").into(), seconds };
        Clock { file, stages }
    }

    /// Does a stage. Its time counts even if it fails or is stopped.
    ///
    /// # Errors
    /// Those of `work`; a file that cannot be written.
    pub fn stage<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = work();
        *self.stages.seconds.entry(name.into()).or_default() += start.elapsed().as_secs_f64();
        let json = serde_json::to_string_pretty(&self.stages)? + "\n";
        let written = write_atomic(&self.file, json.as_bytes());
        let done = done?; // the stage's own error is the one to tell
        written?;
        Ok(done)
    }
}
