//! The plans of a run: one that updates, one that predicts.

use super::hparams::Hparams;
use super::network::Network;
use super::samples::{Rows, Samples};
use super::{Algorithm, Step};
use crate::core::{DType, Gpu, Graph, Init, Memory, Plan, Store, Weights, plan};
use crate::data::rng::Key;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// The update of an algorithm, ready to be replayed.
pub struct Trainer {
    plan: Plan,
    algorithm: Box<dyn Algorithm>,
    logged: Vec<&'static str>,
    seed: u64,
}

impl Trainer {
    /// Records and plans the update for `envs` minibatches of `batch` samples. Parameters that the store
    /// lacks get the values that `init` gives for their name and torch's shape.
    ///
    /// # Errors
    /// No device memory; an error of `init`.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        store: &mut Store,
        algorithm: Box<dyn Algorithm>,
        network: &Network,
        hparams: &Hparams,
        samples: &Samples,
        [envs, batch]: [usize; 2],
        seed: u64,
        init: impl Fn(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<Trainer> {
        let gpu = store.gpu().clone();
        let g = Graph::new(gpu.caps());
        let step = Step {
            g: &g,
            w: Weights::new(&g, DType::F32),
            network,
            x: samples.input(&g, envs * batch),
            y: g.input("y", &[envs * batch], DType::U32),
            envs,
            hparams,
            count: g.input("count", &[1], DType::F32),
            key: g.input("key", &[4], DType::U32),
        };
        let values = algorithm.update(&step);
        let keep = g.input("keep", &[1], DType::F32);
        for (name, value) in &values {
            let sum = g.state(&format!("log.{name}"), &[1], DType::F32, Init::Zeros);
            g.output(name, g.assign(sum, g.add(g.mul(sum, keep), *value)));
        }
        plan::check(&gpu, &g)?;
        let held = store.names();
        for (name, t) in step.w.params() {
            if !held.contains(&name) {
                let shape = match *t.shape() {
                    [o, h, w, i] => vec![o, i, h, w],
                    ref shape => shape.to_vec(),
                };
                store.write(&name, &shape, &init(&name, &shape)?)?;
            }
        }
        drop(step);
        let plan = Plan::new(&gpu, g, store)?;
        Ok(Trainer { plan, algorithm, logged: values.iter().map(|v| v.0).collect(), seed })
    }

    /// Hands one update to the device and returns before it is done. `fresh` starts the logged sums anew.
    ///
    /// # Errors
    /// A device that fails.
    pub fn step(&mut self, step: u32, x: Rows, y: &[u32], fresh: bool) -> Result<()> {
        x.write(&mut self.plan)?;
        self.plan.write_u32("y", y)?;
        self.plan.write("count", &[(step + 1) as f32])?;
        self.plan.write_u32("key", &Key::new(self.seed, step, "dropout").0)?;
        self.plan.write("keep", &[if fresh { 0.0 } else { 1.0 }])?;
        for (name, values) in self.algorithm.inputs(step) {
            self.plan.write(name, &values)?;
        }
        self.plan.run()
    }

    /// Means of the logged numbers over the `count` steps since they were started anew. Waits for the device.
    ///
    /// # Errors
    /// A device that failed; a number that is not finite.
    pub fn logged(&self, count: usize) -> Result<BTreeMap<&'static str, f32>> {
        let mut out = BTreeMap::new();
        for &name in &self.logged {
            let mean = self.plan.read(name)?[0] / count as f32;
            if !mean.is_finite() {
                bail!("the {name} is {mean}: training diverged; lower the learning rate");
            }
            out.insert(name, mean);
        }
        Ok(out)
    }

    /// Device memory that a step takes.
    pub fn memory(&self) -> Memory {
        self.plan.memory()
    }
}

/// The trained network as it predicts.
pub struct Predictor {
    plan: Plan,
    classes: usize,
}

impl Predictor {
    /// Plans the prediction for `batch` samples over the parameters in `store`.
    ///
    /// # Errors
    /// No device memory.
    pub fn new(
        store: &Store,
        algorithm: &dyn Algorithm,
        network: &Network,
        samples: &Samples,
        batch: usize,
    ) -> Result<Predictor> {
        let gpu: &Gpu = store.gpu();
        let g = Graph::new(gpu.caps());
        let w = Weights::new(&g, DType::F32);
        let logits = algorithm.predict(&g, &w, network, samples.input(&g, batch));
        g.output("logits", logits);
        let plan = Plan::new(gpu, g, store)?;
        Ok(Predictor { plan, classes: network.classes })
    }

    /// Hands one batch to the device.
    ///
    /// # Errors
    /// A device that fails.
    pub fn run(&mut self, x: Rows) -> Result<()> {
        x.write(&mut self.plan)?;
        self.plan.run()
    }

    /// Logits (batch, classes) of the last run. Waits for the device.
    ///
    /// # Errors
    /// A device that failed.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.plan.read("logits")
    }

    /// Class of each sample of the last run, the first of equals. Waits for the device.
    ///
    /// # Errors
    /// A device that failed; outputs that are not finite.
    pub fn labels(&self) -> Result<Vec<usize>> {
        let best = |row: &[f32]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
        let logits = self.logits()?;
        if logits.iter().any(|v| !v.is_finite()) {
            bail!("the network's outputs are not finite: training diverged; lower the learning rate");
        }
        Ok(logits.chunks_exact(self.classes).map(best).collect())
    }
}
