//! Representation self-challenging (Huang et al., 2020): the features that the right answer leans on most are muted, for the samples
//! that lose most by it.
//!
//! ```text
//! G = d (sum of true-class logits) / dF
//! mask_f = G below the (1 - rsc_f_drop_factor) quantile of its row
//! change = softmax(c(F))_y - softmax(c(F mask_f))_y;  a row below the (1 - rsc_b_drop_factor) quantile of the batch keeps all
//! loss = CE(c(F mask), y), with the mask as a constant
//! ```

use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;

/// RSC.
pub struct Rsc {
    feature_quantile: f64,
    batch_quantile: f64,
}

impl Rsc {
    pub fn new(setup: &Setup) -> Self {
        let kept = |name| 1.0 - setup.hparams.f64(name);
        Rsc { feature_quantile: kept("rsc_f_drop_factor"), batch_quantile: kept("rsc_b_drop_factor") }
    }
}

impl Algorithm for Rsc {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, rows) = (step.g, step.x.dim(0));
        let features = step.features();
        let logits = step.classify(features);
        let one_hot = step.one_hot(step.y);
        let right = |logits| g.sum(g.mul(logits, one_hot), &[1]);
        let slopes = g.backward(g.reshape(g.sum(right(logits), &[0]), &[1]), &[features])[0];
        let mask = g.less(slopes, g.quantile(slopes, self.feature_quantile));
        let muted = step.classify(g.mul(features, g.stop_gradient(mask)));
        let change = g.sub(right(g.softmax(logits)), right(g.softmax(muted)));
        let change = g.reshape(change, &[1, rows]);
        let spared = g.less(change, g.quantile(change, self.batch_quantile));
        // Or: the larger of two that are 0 or 1.
        let spared = g.reshape(spared, &[rows, 1]);
        let mask = g.sub(g.add(mask, spared), g.mul(mask, spared));
        let loss = step.cross_entropy(step.classify(g.mul(features, g.stop_gradient(mask))));
        step.adam(loss);
        vec![("loss", loss)]
    }
}
