//! Kaleid: a from-scratch WebGPU compute framework, and language-guided diffusion for domain generalization built on it.
//!
//! The floors; arrows point down only, and `data` and `progress` know nothing of the GPU:
//!
//! ```text
//! study                          a whole experiment: run, report, score
//! paint   sweep   verify         images from prompts; many trainings; goldens
//!         train                  one training by DomainBed's protocol
//!         domainbed              its algorithms
//! engines                        models on a device: weights, plans, what goes in and out
//! models  diffusion   bench      functions that record a graph; samplers; the bench of every op
//! nn                             layers over weight paths
//! ops                            one method per op, its backward below it
//! core                           graph -> plan -> kernel -> gpu
//! data    progress    flags      files and numbers on the CPU; flags that are settings too
//! ```

pub mod bench;
pub mod core;
pub mod data;
pub mod diffusion;
pub mod domainbed;
pub mod engines;
pub mod flags;
pub mod models;
pub mod nn;
pub mod ops;
pub mod paint;
pub mod progress;
pub mod study;
pub mod sweep;
pub mod train;
pub mod verify;
