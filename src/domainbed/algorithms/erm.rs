//! Empirical risk minimisation, and what careful training adds to it.

use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;

/// ERM (Vapnik, "Statistical learning theory", 1998): the mean cross entropy over the samples of all environments, as if there
/// were no domains. Its strength when tuned is DomainBed's finding.
pub struct Erm;

impl Algorithm for Erm {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let logits = step.classify(step.features());
        let loss = step.cross_entropy(logits);
        step.adam(loss);
        vec![("loss", loss)]
    }
}

/// ERM++ (Teterwak et al., "ERM++: an improved baseline for domain generalization", 2023): the classifier alone is trained for the
/// first `linear_steps` + 1 updates, then everything, each with an Adam of its own; from the 600th update on the average of the
/// weights predicts.
pub struct ErmPlusPlus {
    linear_steps: u32,
    linear_lr: f32,
}

impl ErmPlusPlus {
    pub fn new(setup: &Setup) -> Self {
        let hparams = setup.hparams;
        ErmPlusPlus {
            linear_steps: hparams.usize("linear_steps") as u32,
            linear_lr: hparams.f32("linear_lr"),
        }
    }
}

impl Algorithm for ErmPlusPlus {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let logits = step.classify(step.features());
        let loss = step.cross_entropy(logits);
        if step.turn == 1 {
            step.adam(loss);
        } else {
            let head = step.params(|name| name.starts_with("fc."));
            let mut optimizer = step.optimizer();
            optimizer.lr = step.number(self.linear_lr);
            step.descend(optimizer, &head, &step.g.backward(loss, &head));
        }
        vec![("loss", loss)]
    }

    fn turns(&self) -> usize {
        2
    }

    fn turn(&self, step: u32) -> usize {
        usize::from(step > self.linear_steps)
    }

    fn adam_resets(&self) -> Vec<u32> {
        vec![self.linear_steps + 1]
    }

    fn average_from(&self) -> Option<u32> {
        Some(599)
    }
}
