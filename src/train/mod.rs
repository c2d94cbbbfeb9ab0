//! `kaleid train`: DomainBed's protocol for one run. A network is trained on some domains and tested on another; the files are
//! those that DomainBed writes (`results.jsonl`, `out.txt`, `err.txt`, `done`), so that its `collect_results` reads them.
//!
//! A run can be cut at any time and goes on from its last checkpoint to the same bytes (recorded times aside): every random
//! draw is a function of (seed, step, purpose), and a checkpoint holds every tensor that lives across steps.

mod events;
mod folder;
mod images;
mod metrics;
mod run;
mod settings;
mod swad;

pub use run::{Outcome, average_from, run};
pub use settings::{Settings, Training, Variant};
