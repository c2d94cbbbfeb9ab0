//! Kaleid: a from-scratch WebGPU compute framework, and language-guided diffusion for domain generalization built on it.
//!
//! Learning XOR: record, differentiate, plan, run.
//!
//! ```
//! use kaleid::{core::*, data::checkpoint::Checkpoint, nn, ops::Sgd};
//!
//! let gpu = Gpu::open(&GpuOptions::from_env())?;
//! let g = Graph::new(gpu.caps()); // Recording computes nothing.
//! let w = Weights::new(&g, DType::F32);
//! let x = g.input("x", &[4, 2], DType::F32);
//! let labels = g.input("labels", &[4], DType::U32);
//! let hidden = g.tanh(nn::linear(&w.sub("first"), x, 16));
//! let loss = g.cross_entropy(nn::linear(&w.sub("last"), hidden, 2), labels);
//! let params: Vec<_> = w.params().into_iter().map(|p| p.tensor).collect();
//! let updates: Vec<_> = params.iter().copied().zip(g.backward(loss, &params)).collect();
//! g.sgd(&updates, g.constant(&[1], &[0.5]), Sgd::default());
//! g.output("loss", loss);
//!
//! let mut store = Store::new(&gpu);
//! store.load(&Checkpoint::synthetic(), &w.params())?; // Weights drawn from their names.
//! let mut plan = Plan::new(&gpu, g, &store)?; // Buffers are shared, pipelines compiled.
//! plan.write("x", &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])?;
//! plan.write_u32("labels", &[0, 1, 1, 0])?;
//! (0..400).try_for_each(|_| plan.run())?;
//! assert!(plan.read("loss")?[0] < 0.05);
//! # anyhow::Ok(())
//! ```
//!
//! The floors; arrows point down only, and `data` and `progress` know nothing of the GPU:
//!
//! ```text
//! serve                          a page to watch and judge a run
//! study                          a whole experiment: run, report, score
//! paint   sweep   verify         images from prompts; many trainings; goldens
//!         train                  one training by DomainBed's protocol
//!         domainbed              its algorithms
//! engines                        models on a device: weights, plans, what goes in and out
//! models  diffusion   bench      functions that read a configuration and record a graph; samplers; the bench of every op
//! nn                             layers over weight paths
//! ops                            one method per op, its backward below it
//! core                           graph -> plan -> kernel -> gpu
//! hub                            files of the Hugging Face hub
//! data    progress    flags      files and numbers on the CPU; flags that are settings too
//! ```

pub mod bench;
pub mod core;
pub mod data;
pub mod diffusion;
pub mod domainbed;
pub mod engines;
pub mod flags;
pub mod hub;
pub mod models;
pub mod nn;
pub mod ops;
pub mod paint;
pub mod progress;
pub mod serve;
pub mod study;
pub mod sweep;
pub mod train;
pub mod verify;
