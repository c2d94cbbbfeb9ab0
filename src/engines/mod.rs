//! Models on a device: weights, plans, and what goes in and comes out.

pub mod chat;
pub mod clip;
pub mod llama;
pub mod painter;

use crate::core::{DType, Gpu, Graph, Plan, Store, Weights, plan};
use crate::data::checkpoint::Checkpoint;
use anyhow::Result;

/// What `record` records, ready to run: planned, and with its weights from `checkpoint`, matrices kept as `dtype`.
///
/// # Errors
/// Too little device memory, which is known before weights are read; a tensor that the checkpoint lacks.
pub fn load(gpu: &Gpu, dtype: DType, checkpoint: &Checkpoint, record: impl FnOnce(&Weights)) -> Result<Plan> {
    let g = Graph::new(gpu.caps());
    let w = Weights::new(&g, dtype);
    record(&w);
    plan::check(gpu, &g)?;
    let mut store = Store::new(gpu);
    store.load(checkpoint, &w)?;
    Plan::new(gpu, g, &store)
}
