//! The algorithms of DomainBed (Gulrajani and Lopez-Paz, "In search of lost domain generalization", 2020), one file each.
//!
//! An algorithm records **one update as one plan**: forward, loss, gradients and optimizer on a minibatch of every training
//! environment. The plan is replayed for every step; what changes from step to step (images, random draws, annealed weights)
//! is an input, recorded together with what fills it (`Step::inputs`). Logged numbers are added up on the device and read when
//! results are written, so that no step waits for them.
//!
//! A new algorithm is a file with a type that implements [`Algorithm`], its line in `algorithms/mod.rs`, and its hyper-parameters in
//! `hparams.rs`.

mod algorithm;
pub mod algorithms;
mod anneal;
pub mod draws;
pub mod hparams;
pub mod network;
pub mod predictor;
pub mod samples;
mod saving;
mod spec;
mod step;
pub mod trainer;

pub use algorithm::{Algorithm, Setup};
pub use algorithms::{PAPER, algorithm, check_name, names};
pub use anneal::Anneal;
pub use saving::Saving;
pub use spec::{AVERAGE, Spec};
pub use step::{Optimizer, Predict, Step};
