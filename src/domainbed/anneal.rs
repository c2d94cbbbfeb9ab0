//! Penalties that begin late.

use super::algorithm::Setup;
use super::step::Step;
use crate::core::{DType, Tensor};

/// A penalty's weight, which jumps at a step.
#[derive(Clone, Copy)]
pub struct Anneal {
    /// The step. Adam starts anew there, since the loss is another.
    pub at: u32,
    before: f32,
    after: f32,
}

impl Anneal {
    /// From `before` to the hyper-parameter `after` at the step that the hyper-parameter `at` says.
    pub fn new(setup: &Setup, at: &str, before: f32, after: &str) -> Self {
        Anneal { at: setup.hparams.usize(at) as u32, before, after: setup.hparams.f32(after) }
    }

    /// The weight times `penalty` (1).
    pub fn times(self, step: &Step, penalty: Tensor) -> Tensor {
        let [weight] = step.inputs([(DType::F32, &[1])], move |batch| {
            Ok([if batch.step < self.at { self.before } else { self.after }.into()])
        });
        step.g.mul(weight, penalty)
    }
}
