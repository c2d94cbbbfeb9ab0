//! Empirical risk minimisation (Vapnik, "Statistical learning theory", 1998): the mean cross entropy over the samples of all
//! environments, as if there were no domains. Its strength when tuned is DomainBed's finding.

use super::{Algorithm, Step};
use crate::core::Tensor;

/// ERM.
pub struct Erm;

impl Algorithm for Erm {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let logits = step.classify(step.features());
        let loss = step.g.cross_entropy(logits, step.y);
        step.adam(loss);
        vec![("loss", loss)]
    }
}
