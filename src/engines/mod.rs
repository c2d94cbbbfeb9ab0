//! Models on a device: weights, plans, and what goes in and comes out.

pub mod chat;
pub mod clip;
mod contexts;
pub mod llama;
pub mod model;
mod noise;
pub mod options;
pub mod painter;
mod parts;
mod pixels;
pub mod sampling;
mod tiles;

use crate::core::{DType, Gpu, Graph, Needs, Param, Plan, Scratch, Store, Weights, buffers, plan};
use crate::data::checkpoint::Checkpoint;
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One network of a model. Opening it records it and sees that its checkpoint and the adapter fit it; its weights are read when it
/// first runs, so that all parts of a model are checked before any is loaded.
pub struct Part {
    gpu: Gpu,
    dtype: DType,
    checkpoint: Rc<Checkpoint>,
    record: Box<dyn Fn(&Weights)>,
    needs: Needs,
    /// Bytes of its buffers for intermediate results.
    buffers: Vec<usize>,
    scratch: Scratch,
    plan: Option<Plan>,
}

impl Part {
    /// What `record` records, its matrices kept as `dtype`, with weights from `checkpoint`.
    ///
    /// # Errors
    /// A tensor that the checkpoint lacks or holds in another shape; too little device memory.
    pub fn open(
        gpu: &Gpu,
        dtype: DType,
        checkpoint: &Rc<Checkpoint>,
        record: impl Fn(&Weights) + 'static,
    ) -> Result<Part> {
        let (g, params) = recorded(gpu, dtype, &record);
        params.iter().try_for_each(|p| p.check(checkpoint))?;
        let needs = plan::check(gpu, &g)?;
        let (gpu, checkpoint) = (gpu.clone(), checkpoint.clone());
        let (buffers, scratch) = (buffers(&g), Scratch::default());
        Ok(Part { gpu, dtype, checkpoint, record: Box::new(record), needs, buffers, scratch, plan: None })
    }

    /// Has intermediate results in buffers that other parts use too.
    pub fn share(&mut self, scratch: &Scratch) {
        scratch.reserve(&self.buffers);
        self.scratch = scratch.clone();
    }

    /// What it takes when it is loaded.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The plan, with its weights.
    ///
    /// # Errors
    /// Numbers that are not finite; a device without enough memory after all.
    pub fn plan(&mut self) -> Result<&mut Plan> {
        if self.plan.is_none() {
            let (graph, params) = recorded(&self.gpu, self.dtype, &self.record);
            let mut store = Store::new(&self.gpu);
            load_weights(&mut store, &self.checkpoint, &params)?;
            self.plan = Some(Plan::sharing(&self.gpu, graph, &store, &self.scratch)?);
        }
        self.plan.as_mut().context("just made")
    }

    /// Gives its memory back, until it runs again; what it shares is given back when the others have left too.
    ///
    /// # Errors
    /// A device that fails.
    pub fn unload(&mut self) -> Result<()> {
        match self.plan.take() {
            Some(_) => {
                self.scratch.clear();
                self.gpu.wait()
            }
            None => Ok(()),
        }
    }
}

/// What `record` records, and the parameters that it asks for.
fn recorded(gpu: &Gpu, dtype: DType, record: impl FnOnce(&Weights)) -> (Graph, Vec<Param>) {
    let g = Graph::new(gpu.caps());
    let w = Weights::new(&g, dtype);
    record(&w);
    let params = w.params();
    (g, params)
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
/// As [`Part::plan`].
pub fn load(gpu: &Gpu, dtype: DType, checkpoint: &Checkpoint, record: impl FnOnce(&Weights)) -> Result<Plan> {
    let (g, params) = recorded(gpu, dtype, record);
    plan::check(gpu, &g)?;
    let mut store = Store::new(gpu);
    load_weights(&mut store, checkpoint, &params)?;
    Plan::new(gpu, g, &store)
}
