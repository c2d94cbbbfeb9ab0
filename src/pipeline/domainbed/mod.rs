//! The algorithms of DomainBed (Gulrajani and Lopez-Paz, "In search of lost domain generalization", 2020), one file each.
//!
//! An algorithm records **one update as one plan**: forward, loss, gradients and optimizer on a minibatch of every training
//! environment. The plan is replayed for every step; what changes from step to step (images, random draws, annealed weights)
//! is an input. Logged numbers are added up on the device and read when results are written, so that no step waits for them.
//!
//! A new algorithm is a file with a type that implements [`Algorithm`], and a line in `ALGORITHMS`.

pub mod erm;
pub mod hparams;
pub mod network;
pub mod samples;
pub mod trainer;

use crate::core::{Graph, Tensor, Weights};
use crate::models::resnet;
use crate::ops::Adam;
use anyhow::{Result, bail};
use hparams::Hparams;
use network::Network;

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
