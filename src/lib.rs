//! Kaleid: a from-scratch WebGPU compute framework, and language-guided diffusion for domain generalization built on it.
//!
//! Arrows point down only: `commands` use `pipeline`, which uses `models` and `diffusion`, which use `nn` and `ops`, which use
//! `core`. `data` knows nothing of the GPU.

pub mod core;
pub mod data;
pub mod diffusion;
pub mod models;
pub mod nn;
pub mod ops;
pub mod pipeline;
