//! Spectral decoupling (Pezeshki et al., "Gradient starvation: a learning proclivity in neural networks", 2020): small logits z.
//!
//! ```text
//! loss = CE + sd_reg mean z^2
//! ```
//!
//! The loss that is logged is the cross entropy alone.

use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;

/// SD.
pub struct Sd {
    reg: f32,
}

impl Sd {
    pub fn new(setup: &Setup) -> Self {
        Sd { reg: setup.hparams.f32("sd_reg") }
    }
}

impl Algorithm for Sd {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let logits = step.classify(step.features());
        let ce = step.cross_entropy(logits);
        let flat = g.reshape(logits, &[logits.len()]);
        let penalty = g.mean(g.mul(flat, flat), &[0]);
        let loss = g.add(ce, g.scale(penalty, self.reg));
        step.adam(loss);
        vec![("loss", ce), ("penalty", penalty)]
    }
}
