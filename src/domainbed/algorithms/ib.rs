//! Invariance principle meets information bottleneck (Ahuja et al., 2021): features of little variance, which carry no more than
//! the labels need.
//!
//! ```text
//! IB_ERM: loss = mean_e CE_e + w mean_e mean_d Var(F_e[:, d])          IB_IRM: and IRM's penalty
//! ```
//!
//! w is 0 until `ib_penalty_anneal_iters` and `ib_lambda` from then on; Adam starts anew whenever a weight changes.

use super::irm;
use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::anneal::Anneal;
use crate::domainbed::step::Step;

/// IB_ERM, and with IRM's penalty IB_IRM.
pub struct Ib {
    weight: Anneal,
    irm: Option<Anneal>,
}

impl Ib {
    pub fn new(setup: &Setup, with_irm: bool) -> Self {
        let irm = || Anneal::new(setup, "irm_penalty_anneal_iters", 1.0, "irm_lambda");
        Ib {
            weight: Anneal::new(setup, "ib_penalty_anneal_iters", 0.0, "ib_lambda"),
            irm: with_irm.then(irm),
        }
    }
}

impl Algorithm for Ib {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let features = step.features();
        let logits = step.classify(features);
        let nll = g.mean(step.risks(logits), &[0]);
        let by_env = g.reshape(features, &[step.envs, step.batch(), features.last()]);
        let away = g.sub(by_env, g.mean(by_env, &[1]));
        // The unbiased variance, as torch's var.
        let n = by_env.len() as f32 * (step.batch() - 1) as f32 / step.batch() as f32;
        let ib = g.reshape(g.scale(g.sum(g.mul(away, away), &[0, 1, 2]), 1.0 / n), &[1]);
        let mut loss = g.add(nll, self.weight.times(step, ib));
        let mut logged = vec![("IB_penalty", ib)];
        if let Some(weight) = &self.irm {
            let penalty = irm::penalty(g, logits, step.one_hot(step.y), step.envs);
            loss = g.add(loss, weight.times(step, penalty));
            logged.push(("IRM_penalty", penalty));
        }
        step.adam(loss);
        // Upstream adds the penalties to nll in place, so that it logs the loss twice.
        logged.extend([("loss", loss), ("nll", loss)]);
        logged
    }

    fn adam_resets(&self) -> Vec<u32> {
        [self.weight].into_iter().chain(self.irm).map(|weight| weight.at).collect()
    }
}
