//! Models on a device: weights, plans, and what goes in and comes out.

pub mod chat;
pub mod clip;
pub mod llama;
pub mod model;
pub mod painter;

use crate::core::{DType, Gpu, Graph, Needs, Param, Plan, Store, Weights, plan};
use crate::data::checkpoint::Checkpoint;
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One network of a model. Opening it records it and sees that its checkpoint and the adapter fit it; its weights are read when it
/// first runs, so that all parts of a model are checked before any is loaded.
pub struct Part {
    gpu: Gpu,
    needs: Needs,
    recorded: Option<(Graph, Vec<Param>)>,
    plan: Option<Plan>,
}

impl Part {
    /// What `record` records, its matrices kept as `dtype`.
    ///
    /// # Errors
    /// A tensor that the checkpoint lacks or holds in another shape; too little device memory.
    pub fn open(
        gpu: &Gpu,
        dtype: DType,
        checkpoint: &Checkpoint,
        record: impl FnOnce(&Weights),
    ) -> Result<Part> {
        let g = Graph::new(gpu.caps());
        let w = Weights::new(&g, dtype);
        record(&w);
        let params = w.params();
        params.iter().try_for_each(|p| p.check(checkpoint))?;
        let needs = plan::check(gpu, &g)?;
        Ok(Part { gpu: gpu.clone(), needs, recorded: Some((g, params)), plan: None })
    }

    /// What it takes when it is loaded.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The plan, with its weights from `checkpoint`.
    ///
    /// # Errors
    /// Numbers that are not finite; a device without enough memory after all.
    pub fn plan(&mut self, checkpoint: &Checkpoint) -> Result<&mut Plan> {
        if let Some((graph, params)) = self.recorded.take() {
            let mut store = Store::new(&self.gpu);
            load_weights(&mut store, checkpoint, &params)?;
            self.plan = Some(Plan::new(&self.gpu, graph, &store)?);
        }
        self.plan.as_mut().context("this part of the model could not be loaded")
    }
}

/// Reads parameters from `checkpoint` into `store`.
fn load_weights(store: &mut Store, checkpoint: &Checkpoint, params: &[Param]) -> Result<()> {
    let all: usize = params.iter().map(|p| p.tensor.bytes()).sum();
    // Small ones take no time.
    let progress = (all >> 20 > 64).then(|| Progress::new("weights", (all >> 20) as u64, "MiB"));
    let read = AtomicUsize::new(0);
    store.load_with(checkpoint, params, |bytes| {
        let before = read.fetch_add(bytes, Ordering::Relaxed);
        if let Some(progress) = &progress {
            progress.inc(((before + bytes) >> 20) as u64 - (before >> 20) as u64);
        }
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(())
}

/// What `record` records, ready to run with its weights from `checkpoint`, matrices kept as `dtype`.
///
/// # Errors
/// As [`Part::open`] and [`Part::plan`].
pub fn load(gpu: &Gpu, dtype: DType, checkpoint: &Checkpoint, record: impl FnOnce(&Weights)) -> Result<Plan> {
    let mut part = Part::open(gpu, dtype, checkpoint, record)?;
    part.plan(checkpoint)?;
    part.plan.context("just made")
}
