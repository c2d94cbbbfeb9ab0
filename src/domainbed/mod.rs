//! The algorithms of DomainBed (Gulrajani and Lopez-Paz, "In search of lost domain generalization", 2020), one file each.
//!
//! An algorithm records **one update as one plan**: forward, loss, gradients and optimizer on a minibatch of every training
//! environment. The plan is replayed for every step; what changes from step to step (images, random draws, annealed weights)
//! is an input. Logged numbers are added up on the device and read when results are written, so that no step waits for them.
//!
//! A new algorithm is a file with a type that implements [`Algorithm`], a line in `ALGORITHMS`, and its hyper-parameters in
//! `hparams.rs`.

pub mod algorithms;
pub mod hparams;
pub mod network;
pub mod samples;
pub mod trainer;

use crate::core::{DType, Graph, Init, Tensor, Weights};
use crate::models::resnet;
use crate::ops::Adam;
use algorithms::*;
use anyhow::{Result, bail};
use hparams::{Hparams, Preset, nearest};
use network::{Network, Pass};
use std::cell::Cell;
use trainer::{Batch, Saving};

/// How one algorithm updates the network.
pub trait Algorithm {
    /// Records one update, which changes the parameters in place. Returns the numbers to log, (1) each.
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)>;

    /// Weights of penalties that jump at a step, when Adam starts anew.
    fn anneals(&self) -> Vec<&Anneal> {
        vec![]
    }

    /// Fills the inputs that `update` declared beyond the minibatch: annealed weights, random draws.
    fn inputs(&self, batch: &mut Batch) -> Result<()> {
        self.anneals().into_iter().try_for_each(|weight| weight.fill(batch))
    }

    /// Number of updates of different kinds that take turns, each a plan of its own.
    fn turns(&self) -> usize {
        1
    }

    /// Whose turn the 0-based `step` is.
    fn turn(&self, _step: u32) -> usize {
        0
    }

    /// Steps at which Adam is replaced by a fresh one.
    fn adam_resets(&self) -> Vec<u32> {
        self.anneals().into_iter().map(|weight| weight.at).collect()
    }

    /// Which update of its Adam `step` makes, from 1 on.
    fn adam_step(&self, step: u32) -> u32 {
        step + 1 - self.adam_resets().into_iter().filter(|&r| r <= step).max().unwrap_or(0)
    }

    /// The step from which on an average of the weights is kept, which then predicts.
    fn average_from(&self) -> Option<u32> {
        None
    }

    /// Logits of samples after training.
    fn predict(&self, p: &Predict) -> Tensor {
        p.network.classify(&p.w, p.network.features(&p.w, p.x, Pass::Predict))
    }
}

/// What an algorithm is made for.
pub struct Setup<'a> {
    /// Its hyper-parameters and the network's.
    pub hparams: &'a Hparams,
    /// Which DomainBed to follow.
    pub preset: Preset,
    /// Without the known mistakes of upstream, where the algorithm's file names them.
    pub fixed: bool,
    /// Number E of training environments.
    pub envs: usize,
}

/// Every algorithm by DomainBed's name, in the order of its tables.
const ALGORITHMS: &[(&str, fn(&Setup) -> Result<Box<dyn Algorithm>>)] = &[
    ("ERM", |_| Ok(Box::new(erm::Erm))),
    ("Fish", |s| Ok(Box::new(fish::Fish::new(s)))),
    ("IRM", |s| Ok(Box::new(irm::Irm::new(s)))),
    ("GroupDRO", |s| Ok(Box::new(groupdro::GroupDro::new(s)))),
    ("Mixup", |s| Ok(Box::new(mixup::Mixup::new(s)))),
    ("MLDG", |s| Ok(Box::new(mldg::Mldg::new(s)?))),
    ("CORAL", |s| Ok(Box::new(coral::Coral::new(s, coral::Distance::Coral)))),
    ("MMD", |s| Ok(Box::new(coral::Coral::new(s, coral::Distance::Mmd)))),
    ("DANN", |s| Ok(Box::new(dann::Dann::new(s, false)))),
    ("CDANN", |s| Ok(Box::new(dann::Dann::new(s, true)))),
    ("MTL", |s| Ok(Box::new(mtl::Mtl::new(s)))),
    ("SagNet", |s| Ok(Box::new(sagnet::SagNet::new(s)))),
    ("VREx", |s| Ok(Box::new(vrex::Vrex::new(s)))),
    ("RSC", |s| Ok(Box::new(rsc::Rsc::new(s)))),
    ("SD", |s| Ok(Box::new(sd::Sd::new(s)))),
    ("ANDMask", |s| Ok(Box::new(andmask::AndMask::new(s)))),
    ("SelfReg", |s| Ok(Box::new(selfreg::SelfReg::new(s)))),
    ("Fishr", |s| Ok(Box::new(fishr::Fishr::new(s)?))),
    ("IB_ERM", |s| Ok(Box::new(ib::Ib::new(s, false)))),
    ("IB_IRM", |s| Ok(Box::new(ib::Ib::new(s, true)))),
    ("CausIRL_CORAL", |s| Ok(Box::new(coral::CausIrl::new(s, coral::Distance::Coral)))),
    ("CausIRL_MMD", |s| Ok(Box::new(coral::CausIrl::new(s, coral::Distance::Mmd)))),
    ("EQRM", |s| Ok(Box::new(eqrm::Eqrm::new(s)?))),
    ("ERMPlusPlus", |s| Ok(Box::new(erm::ErmPlusPlus::new(s)))),
];

/// Names of all algorithms, in the order of DomainBed's tables.
pub fn names() -> Vec<&'static str> {
    ALGORITHMS.iter().map(|a| a.0).collect()
}

/// Fails unless `name` is an algorithm.
///
/// # Errors
/// A name that is not known; the nearest one is offered.
pub fn check_name(name: &str) -> Result<()> {
    if names().contains(&name) {
        return Ok(());
    }
    match nearest(name, names()) {
        Some(near) => bail!("no algorithm {name}: did you mean {near}?"),
        None => bail!("no algorithm {name}: there are {}", names().join(", ")),
    }
}

/// The algorithm `name`.
///
/// # Errors
/// A name that is not known; a setup in which the algorithm would train nothing.
pub fn algorithm(name: &str, setup: &Setup) -> Result<Box<dyn Algorithm>> {
    check_name(name)?;
    let old = [
        "ERM", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL", "SagNet", "VREx",
        "RSC",
    ];
    if setup.preset == Preset::Db2020 && !old.contains(&name) {
        bail!("{name} was not in DomainBed in 2020: choose another --preset");
    }
    let (_, make) = ALGORITHMS.iter().find(|a| a.0 == name).expect("checked");
    make(setup)
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
    /// Whose turn it is.
    pub turn: usize,
    hparams: &'a Hparams,
    /// Which update of its Adam this is, (1).
    count: Tensor,
    /// Dropout masks so far.
    masks: Cell<usize>,
    saving: Saving,
}

/// One Adam and its place in its life.
#[derive(Clone, Copy)]
pub struct Optimizer {
    /// Learning rate, (1).
    pub lr: Tensor,
    /// Which update this is, from 1 on, (1).
    pub count: Tensor,
    /// The rest.
    pub adam: Adam,
}

impl Step<'_> {
    /// Features (E B, F) of all samples in training mode, after dropout.
    pub fn features(&self) -> Tensor {
        self.features_of(&self.w, self.x, 1)
    }

    /// Features of the samples `x` in training mode, after dropout, with the parameters `w`. Where the network normalises by statistics
    /// of the batch, each of `parts` equal parts has its own.
    pub fn features_of(&self, w: &Weights, x: Tensor, parts: usize) -> Tensor {
        let (g, network, rows) = (self.g, self.network, x.dim(0));
        let recompute = self.saving.recompute;
        let pieces = match self.saving.parts {
            1 => 1,
            _ if network.sees_batches() => parts,
            most => most.min(rows),
        };
        let features = match pieces {
            1 => network.features(w, x, Pass::Train { groups: parts, recompute }),
            _ => {
                let size = rows.div_ceil(pieces);
                let part = |start: usize| {
                    let (network, again) = (network.clone(), w.keep());
                    let x = g.slice(x, 0, start, size.min(rows - start));
                    g.recompute(x, move |g, x| {
                        network.features(&again(g), x, Pass::Train { groups: 1, recompute })
                    })
                };
                g.concat(&(0..rows).step_by(size).map(part).collect::<Vec<_>>(), 0)
            }
        };
        self.dropout(features, self.hparams.f32("resnet_dropout"))
    }

    /// Features (B, F) of each environment, as DomainBed's algorithms have them that take environments one by one. One pass gives
    /// the same numbers sooner.
    pub fn features_by_env(&self) -> Vec<Tensor> {
        let all = self.features_of(&self.w, self.x, self.envs);
        (0..self.envs).map(|e| self.env(all, e)).collect()
    }

    /// Logits of features.
    pub fn classify(&self, features: Tensor) -> Tensor {
        self.network.classify(&self.w, features)
    }

    /// Numbers set to zero with probability `p`, by a mask of its own in every call.
    pub fn dropout(&self, x: Tensor, p: f32) -> Tensor {
        if p == 0.0 {
            return x;
        }
        let key = self.g.input(&trainer::mask_key(self.masks.get()), &[4], DType::U32);
        self.masks.set(self.masks.get() + 1);
        self.g.dropout(x, self.g.random_uniform(key, x.shape()), p)
    }

    /// Samples of each environment.
    pub fn batch(&self) -> usize {
        self.x.dim(0) / self.envs
    }

    /// The rows of environment `e` in a tensor of all rows.
    pub fn env(&self, all: Tensor, e: usize) -> Tensor {
        self.g.slice(all, 0, e * self.batch(), self.batch())
    }

    /// The mean cross entropy of each environment, (E), from the logits of all rows.
    pub fn risks(&self, logits: Tensor) -> Tensor {
        let rows = self.g.cross_entropy_rows(logits, self.y);
        let means = self.g.mean(self.g.reshape(rows, &[self.envs, self.batch()]), &[1]);
        self.g.reshape(means, &[self.envs])
    }

    /// The mean cross entropy (1) of logits (rows, classes) and labels as ones and zeros.
    pub fn risk(&self, logits: Tensor, one_hot: Tensor) -> Tensor {
        let right = self.g.sum(self.g.mul(self.g.log_softmax(logits), one_hot), &[0, 1]);
        self.g.scale(self.g.reshape(right, &[1]), -1.0 / logits.dim(0) as f32)
    }

    /// Ones at the labels, zeros elsewhere: (rows, classes).
    pub fn one_hot(&self, labels: Tensor) -> Tensor {
        let k = self.network.classes;
        let eye: Vec<f32> = (0..k * k).map(|i| if i / k == i % k { 1.0 } else { 0.0 }).collect();
        self.g.gather_rows(self.g.constant(&[k, k], &eye), labels)
    }

    /// Every tensor of the network, by name, before it is used: a prediction is recorded whose result nobody reads.
    pub fn declare(&self) -> Vec<(String, Tensor)> {
        self.classify(self.network.features(&self.w, self.x, Pass::Predict));
        self.w.params()
    }

    /// The parameters that the model has asked for so far, as they are now.
    pub fn named_params(&self) -> Vec<(String, Tensor)> {
        let all = self.w.params().into_iter().filter(|(name, _)| resnet::is_parameter(name));
        all.map(|(name, t)| (name.clone(), self.g.state(&name, t.shape(), t.dtype(), Init::Loaded))).collect()
    }

    /// Those whose name `which` holds for.
    pub fn params(&self, which: impl Fn(&str) -> bool) -> Vec<Tensor> {
        self.named_params().into_iter().filter(|(name, _)| which(name)).map(|p| p.1).collect()
    }

    /// Adam with the learning rate and weight decay of the hyper-parameters.
    pub fn optimizer(&self) -> Optimizer {
        let adam = Adam { weight_decay: self.hparams.f32("weight_decay"), ..Adam::default() };
        Optimizer { lr: self.number(self.hparams.f32("lr")), count: self.count, adam }
    }

    /// One Adam step on `params` down `grads`.
    pub fn descend(&self, o: Optimizer, params: &[Tensor], grads: &[Tensor]) {
        let pairs: Vec<_> = params.iter().copied().zip(grads.iter().copied()).collect();
        self.g.adam(&pairs, o.lr, o.count, o.adam);
    }

    /// One step of [`Step::optimizer`] on every parameter down the gradient of `loss`.
    pub fn adam(&self, loss: Tensor) {
        let params = self.params(|_| true);
        self.descend(self.optimizer(), &params, &self.g.backward(loss, &params));
    }

    /// A number that never changes, (1).
    pub fn number(&self, value: f32) -> Tensor {
        self.g.constant(&[1], &[value])
    }

    /// The sum of numbers (1).
    pub fn sum(&self, all: &[Tensor]) -> Tensor {
        all.iter().copied().reduce(|a, b| self.g.add(a, b)).expect("at least one number")
    }

    /// The mean of numbers (1).
    pub fn mean(&self, all: &[Tensor]) -> Tensor {
        self.g.scale(self.sum(all), 1.0 / all.len() as f32)
    }
}

/// What a prediction is recorded with.
pub struct Predict<'a> {
    /// The graph to record in.
    pub g: &'a Graph,
    /// The parameters.
    pub w: Weights<'a>,
    /// The network they belong to.
    pub network: &'a Network,
    /// Samples (N, ..).
    pub x: Tensor,
    /// Key for random numbers, U32 (4).
    pub key: Tensor,
}

/// A penalty's weight, which jumps at a step. It is an input by the name of its hyper-parameter.
pub struct Anneal {
    name: &'static str,
    at: u32,
    before: f32,
    after: f32,
}

impl Anneal {
    /// From `before` to the hyper-parameter `name` at the step that the hyper-parameter `at` says.
    fn new(setup: &Setup, at: &str, before: f32, name: &'static str) -> Self {
        Anneal { name, at: setup.hparams.usize(at) as u32, before, after: setup.hparams.f32(name) }
    }

    /// The weight times `penalty` (1).
    fn times(&self, g: &Graph, penalty: Tensor) -> Tensor {
        g.mul(g.input(self.name, &[1], DType::F32), penalty)
    }

    fn fill(&self, batch: &mut Batch) -> Result<()> {
        batch.write(self.name, &[if batch.step < self.at { self.before } else { self.after }])
    }
}
