//! Quantile risk minimisation (Eastwood et al., "Probable domain generalization via quantile risk minimization", 2022): the
//! `eqrm_quantile` of the distribution of risks, estimated from the environments' by normal kernels.
//!
//! ```text
//! loss = mean_e CE_e for `eqrm_burnin_iters` updates, then [`crate::core::Graph::kde_quantile`] of CE_e
//! ```
//!
//! Adam starts anew, with `eqrm_lr`, at the update whose number is the burn-in's. A random burn-in is not a whole number, which no
//! update ever equals: then upstream keeps the first Adam, and so does this.

use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;
use anyhow::{Result, bail};

/// EQRM.
pub struct Eqrm {
    quantile: f64,
    burnin: f64,
    lr: f32,
}

impl Eqrm {
    pub fn new(setup: &Setup) -> Result<Self> {
        let h = setup.hparams;
        let quantile = h.f64("eqrm_quantile");
        if setup.envs < 2 {
            bail!("EQRM needs at least two training environments: one risk has no distribution");
        }
        if !(0.0 < quantile && quantile < 1.0) {
            bail!("hyper-parameter eqrm_quantile = {quantile}: it must be above 0 and below 1");
        }
        Ok(Eqrm { quantile, burnin: h.f64("eqrm_burnin_iters"), lr: h.f32("eqrm_lr") })
    }

    fn is_renewed(&self) -> bool {
        self.burnin.fract() == 0.0
    }
}

impl Algorithm for Eqrm {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let logits: Vec<Tensor> = step.features_by_env().into_iter().map(|f| step.classify(f)).collect();
        let risks = step.risks(g.concat(&logits, 0));
        let mut optimizer = step.optimizer();
        let loss = if step.turn == 0 { g.mean(risks, &[0]) } else { g.kde_quantile(risks, self.quantile) };
        if step.turn == 1 && self.is_renewed() {
            optimizer.lr = step.number(self.lr);
        }
        let params = step.params(|_| true);
        step.descend(optimizer, &params, &g.backward(loss, &params));
        vec![("loss", loss)]
    }

    fn turns(&self) -> usize {
        2
    }

    fn turn(&self, step: u32) -> usize {
        usize::from(f64::from(step) >= self.burnin)
    }

    fn adam_resets(&self) -> Vec<u32> {
        if self.is_renewed() { vec![self.burnin as u32] } else { vec![] }
    }
}
