//! The algorithms of DomainBed (Gulrajani and Lopez-Paz, "In search of lost domain generalization", 2020), one file each.
//!
//! An algorithm records **one update as one plan**: forward, loss, gradients and optimizer on a minibatch of every training
//! environment. The plan is replayed for every step; what changes from step to step (images, random draws, annealed weights)
//! is an input. Logged numbers are added up on the device and read when results are written, so that no step waits for them.
//!
//! A new algorithm is a file with a type that implements [`Algorithm`], and a line in `ALGORITHMS`.

pub mod erm;
pub mod hparams;

use crate::core::{DType, Gpu, Graph, Init, Memory, Plan, Store, Tensor, Weights, plan};
use crate::data::rng::Key;
use crate::models::resnet::{self, BatchNorm, ResNetConfig};
use crate::nn;
use crate::ops::{Adam, Epilogue};
use anyhow::{Result, bail};
use hparams::Hparams;
use std::collections::BTreeMap;

/// How one algorithm updates the network.
pub trait Algorithm {
    /// Records one update, which changes the parameters in place. Returns the numbers to log, (1) each.
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)>;

    /// Values of the inputs that `update` declared beyond the minibatch, for the 0-based `step`: weights that are annealed,
    /// random draws.
    fn inputs(&self, _step: u32) -> Vec<(&'static str, Vec<f32>)> {
        vec![]
    }

    /// Logits of `x` after training.
    fn predict(&self, g: &Graph, w: &Weights, network: &Network, x: Tensor) -> Tensor {
        network.classify(g, w, network.features(g, w, x, false))
    }
}

/// Every algorithm by DomainBed's name.
const ALGORITHMS: &[(&str, fn() -> Box<dyn Algorithm>)] = &[("ERM", || Box::new(erm::Erm))];

/// The algorithm `name`.
///
/// # Errors
/// A name that is not known.
pub fn algorithm(name: &str) -> Result<Box<dyn Algorithm>> {
    match ALGORITHMS.iter().find(|a| a.0 == name) {
        Some((_, make)) => Ok(make()),
        None => {
            let names: Vec<_> = ALGORITHMS.iter().map(|a| a.0).collect();
            bail!("no algorithm {name}: there are {}", names.join(", "))
        }
    }
}

/// A featurizer and a linear classifier on top of it. Parameters have torchvision's names; the classifier is `fc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// From samples to feature vectors.
    pub featurizer: Featurizer,
    /// Length of the logits.
    pub classes: usize,
}

/// From samples to feature vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Featurizer {
    /// Images (N, H, W, 3); what batch normalisation does in training.
    ResNet(ResNetConfig, BatchNorm),
    /// Vectors (N, F): DomainBed's MLP, for toy data. Linear layers with ReLU between them: `depth` of them, `width` wide.
    Mlp {
        /// Width of the hidden layers.
        width: usize,
        /// Number of linear layers, at least 2.
        depth: usize,
        /// Length of the feature vector.
        outputs: usize,
    },
}

impl Network {
    /// Features (N, F) of samples.
    pub fn features(&self, g: &Graph, w: &Weights, x: Tensor, training: bool) -> Tensor {
        match &self.featurizer {
            Featurizer::ResNet(config, mode) => {
                let mode = if training { *mode } else { BatchNorm::Frozen };
                resnet::features(g, w, config, x, mode)
            }
            Featurizer::Mlp { width, depth, outputs } => {
                let mut x = nn::linear(g, &w.sub("input"), x, *width, true);
                for i in 0..depth - 2 {
                    x = nn::linear(g, &w.sub(format!("hiddens.{i}")), g.relu(x), *width, true);
                }
                nn::linear(g, &w.sub("output"), g.relu(x), *outputs, true)
            }
        }
    }

    /// Logits (N, classes) of features.
    pub fn classify(&self, g: &Graph, w: &Weights, features: Tensor) -> Tensor {
        nn::linear_with(g, &w.sub("fc"), features, self.classes, true, Epilogue::default())
    }
}

/// What an algorithm records its update with.
pub struct Step<'a> {
    /// The graph to record in.
    pub g: &'a Graph,
    /// The parameters.
    pub w: Weights<'a>,
    /// The network they belong to.
    pub network: &'a Network,
    /// Samples (E B, ..): B rows of the first training environment, then B of the second, and so on.
    pub x: Tensor,
    /// Their labels, U32 (E B).
    pub y: Tensor,
    /// Number E of training environments.
    pub envs: usize,
    /// Learning rate, weight decay and the algorithm's own.
    pub hparams: &'a Hparams,
    count: Tensor,
    key: Tensor,
}

impl Step<'_> {
    /// Features of all samples in training mode, after dropout.
    pub fn features(&self) -> Tensor {
        let f = self.network.features(self.g, &self.w, self.x, true);
        match self.hparams.f32("resnet_dropout") {
            0.0 => f,
            p => self.g.dropout(f, self.g.random_uniform(self.key, f.shape()), p),
        }
    }

    /// Logits of features.
    pub fn classify(&self, features: Tensor) -> Tensor {
        self.network.classify(self.g, &self.w, features)
    }

    /// One Adam step on every parameter down the gradient of `loss`.
    pub fn adam(&self, loss: Tensor) {
        let all = self.w.params().into_iter();
        let params: Vec<Tensor> = all.filter(|(name, _)| resnet::is_parameter(name)).map(|p| p.1).collect();
        let grads = self.g.backward(loss, &params);
        let pairs: Vec<_> = params.into_iter().zip(grads).collect();
        let adam = Adam { weight_decay: self.hparams.f32("weight_decay"), ..Adam::default() };
        self.g.adam(&pairs, self.g.constant(&[1], &[self.hparams.f32("lr")]), self.count, adam);
    }
}

/// The update of an algorithm, ready to be replayed.
pub struct Trainer {
    plan: Plan,
    algorithm: Box<dyn Algorithm>,
    logged: Vec<&'static str>,
    seed: u64,
}

impl Trainer {
    /// Records and plans the update for `envs` minibatches of `batch` samples of shape `sample`. Parameters that the store
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
        sample: &[usize],
        [envs, batch]: [usize; 2],
        seed: u64,
        init: impl Fn(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<Trainer> {
        let gpu = store.gpu().clone();
        let g = Graph::new(gpu.caps());
        let shape: Vec<usize> = [envs * batch].iter().chain(sample).copied().collect();
        let step = Step {
            g: &g,
            w: Weights::new(&g, DType::F32),
            network,
            x: g.input("x", &shape, DType::F32),
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
    pub fn step(&mut self, step: u32, x: &[f32], y: &[u32], fresh: bool) -> Result<()> {
        self.plan.write("x", x)?;
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
    /// Plans the prediction for `batch` samples of shape `sample`, over the parameters in `store`.
    ///
    /// # Errors
    /// No device memory.
    pub fn new(
        store: &Store,
        algorithm: &dyn Algorithm,
        network: &Network,
        sample: &[usize],
        batch: usize,
    ) -> Result<Predictor> {
        let gpu: &Gpu = store.gpu();
        let g = Graph::new(gpu.caps());
        let w = Weights::new(&g, DType::F32);
        let shape: Vec<usize> = [batch].iter().chain(sample).copied().collect();
        let logits = algorithm.predict(&g, &w, network, g.input("x", &shape, DType::F32));
        g.output("logits", logits);
        let plan = Plan::new(gpu, g, store)?;
        Ok(Predictor { plan, classes: network.classes })
    }

    /// Hands one batch to the device.
    ///
    /// # Errors
    /// A device that fails.
    pub fn run(&mut self, x: &[f32]) -> Result<()> {
        self.plan.write("x", x)?;
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
