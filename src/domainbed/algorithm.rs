//! What an algorithm is.

use super::hparams::{Hparams, Preset};
use super::network::Pass;
use super::step::{Predict, Step};
use crate::core::Tensor;

/// How one algorithm updates the network.
pub trait Algorithm {
    /// Records one update, which changes the parameters in place. Returns the numbers to log, (1) each.
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)>;

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
        vec![]
    }

    /// Adam's t for its bias correction at `step`: 1 at first and after a reset.
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
    /// Without upstream's known mistakes, where the algorithm's file names some.
    pub corrected: bool,
    /// Number E of training environments.
    pub envs: usize,
}
