//! Risk extrapolation (Krueger et al., "Out-of-distribution generalization via risk extrapolation", 2020): equal risks l_e.
//!
//! ```text
//! loss = mean_e l_e + w mean_e (l_e - mean l)^2
//! ```
//!
//! w is 1 until `vrex_penalty_anneal_iters` and `vrex_lambda` from then on, when Adam starts anew. The nll that upstream logs is
//! the risk of the last environment.

use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::anneal::Anneal;
use crate::domainbed::step::Step;

/// VREx.
pub struct Vrex {
    weight: Anneal,
}

impl Vrex {
    pub fn new(setup: &Setup) -> Self {
        Vrex { weight: Anneal::new(setup, "vrex_penalty_anneal_iters", 1.0, "vrex_lambda") }
    }
}

impl Algorithm for Vrex {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let risks = step.risks(step.classify(step.features()));
        let mean = g.mean(risks, &[0]);
        let away = g.sub(risks, mean);
        let penalty = g.mean(g.mul(away, away), &[0]);
        let loss = g.add(mean, self.weight.times(step, penalty));
        step.adam(loss);
        vec![("loss", loss), ("nll", g.slice(risks, 0, step.envs - 1, 1)), ("penalty", penalty)]
    }

    fn adam_resets(&self) -> Vec<u32> {
        vec![self.weight.at]
    }
}
