//! The plan that predicts.

use super::algorithm::Algorithm;
use super::samples::Rows;
use super::spec::{AVERAGE, Spec};
use super::step::Predict;
use crate::core::{DType, Gpu, Graph, Init, Param, Plan, Store, Weights};
use crate::data::rng::Key;
use crate::models::resnet::is_parameter;
use anyhow::Result;

/// The trained network as it predicts.
pub struct Predictor {
    plan: Plan,
    rows: usize,
}

impl Predictor {
    /// Plans the prediction for `batch` samples, over the parameters in `store` or their average.
    ///
    /// # Errors
    /// No device memory.
    pub fn new(store: &Store, algorithm: &dyn Algorithm, spec: &Spec, batch: usize) -> Result<Predictor> {
        let gpu: &Gpu = store.gpu();
        let g = Graph::new(gpu.caps());
        let (x, key) = (spec.samples.input(&g, batch), g.input("key", &[4], DType::U32));
        let w = Weights::new(&g, DType::F32);
        let mut predict = Predict { g: &g, w: w.clone(), network: spec.network, x, key };
        let mut logits = algorithm.predict(&predict);
        if spec.average_from.is_some() {
            let average = |p: Param| {
                let shape = p.tensor.shape();
                let average = g.state(&format!("{AVERAGE}{}", p.name), shape, DType::F32, Init::Loaded);
                (p.name, average)
            };
            let moved = w.params().into_iter().filter(|p| is_parameter(&p.name));
            predict.w = w.overlay(moved.map(average).collect());
            logits = algorithm.predict(&predict);
        }
        drop(predict);
        g.output("logits", logits);
        let plan = Plan::new(gpu, g, store)?;
        Ok(Predictor { plan, rows: batch })
    }

    /// What a trained model consists of: every tensor that predictions read, by its name in a file, with its name in the store. What
    /// only training needs (moments, averages, an adversary, an algorithm's state) is not read here and so not part of it.
    pub fn tensors(&self) -> Vec<(&str, &str)> {
        self.plan.states().map(|name| (name.strip_prefix(AVERAGE).unwrap_or(name), name)).collect()
    }

    /// Samples of one batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Hands one batch to the device, with the key of what is random in the prediction.
    ///
    /// # Errors
    /// A device that fails.
    pub fn run(&mut self, x: Rows, key: Key) -> Result<()> {
        x.write(&mut self.plan)?;
        self.plan.write_u32("key", &key.0)?;
        self.plan.run()
    }

    /// Logits (batch, classes) of the last run. Waits for the device.
    ///
    /// # Errors
    /// A device that failed.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.plan.read("logits")
    }
}
