//! Fish (Shi et al., "Gradient matching for domain generalization", 2021): steps on one environment after the other in a copy of the
//! network, and a move of the network towards where the copy ends, which favours directions that environments share.
//!
//! ```text
//! inner = theta;  for each e: inner = Adam(inner, CE_e)        theta += meta_lr (inner - theta)
//! ```
//!
//! The inner Adam keeps its moments across steps; everything in the state moves, running statistics too. Upstream reads the
//! pretrained weights from disk again for each copy; here it is a copy of buffers. The loss that is logged is the last environment's.

use crate::core::{DType, Init, Tensor, Weights};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;
use crate::models::resnet;

/// Fish.
pub struct Fish {
    meta_lr: f32,
}

/// What the copies are called in the store.
pub const INNER: &str = "inner.";

impl Fish {
    pub fn new(setup: &Setup) -> Self {
        Fish { meta_lr: setup.hparams.f32("meta_lr") }
    }
}

impl Algorithm for Fish {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, network) = (step.g, step.network);
        let all = step.declare();
        let copy = |(name, t): &(String, Tensor)| {
            g.state(&format!("{INNER}{name}"), t.shape(), DType::F32, Init::Zeros)
        };
        for entry in &all {
            g.assign(copy(entry), entry.1);
        }
        let weights = || -> Weights { step.w.overlay(all.iter().map(|e| (e.0.clone(), copy(e))).collect()) };
        let targets = step.targets();
        let mut loss = step.number(0.0);
        for e in 0..step.envs {
            let w = weights();
            let logits = network.classify(&w, step.features_of(&w, step.env(step.x, e), 1));
            loss = step.risk(logits, step.env(targets, e));
            let moved = all.iter().filter(|entry| resnet::is_parameter(&entry.0));
            let params: Vec<Tensor> = moved.map(copy).collect();
            let mut optimizer = step.optimizer();
            let before = g.scale(g.add_scalar(optimizer.count, -1.0), step.envs as f32);
            optimizer.count = g.add_scalar(before, (e + 1) as f32);
            step.descend(optimizer, &params, &g.backward(loss, &params));
        }
        let rate = step.number(1.0 - self.meta_lr);
        for entry in &all {
            g.ema(entry.1, copy(entry), rate);
        }
        vec![("loss", loss)]
    }
}
