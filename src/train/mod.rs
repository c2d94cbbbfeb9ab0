//! `kaleid train`: DomainBed's protocol for one run. A network is trained on some domains and tested on another; the files are
//! those that DomainBed writes (`results.jsonl`, `out.txt`, `err.txt`, `done`), so that its `collect_results` reads them.
//!
//! A run can be killed at any time and resumes from its last checkpoint to the same bytes (recorded times aside): every random
//! draw is a function of (seed, step, purpose), and a checkpoint holds every tensor that lives across steps.

mod classify;
mod clocks;
mod environments;
mod evaluate;
mod events;
mod folder;
mod metrics;
mod run;
mod schedule;
mod settings;
mod swad;
mod task;
mod variant;

pub use classify::classify;
pub use run::{Outcome, check, run};
pub use settings::{Settings, Training};
pub use task::{average_from, check_planned};
pub use variant::Variant;
