//! Invariant risk minimisation (Arjovsky et al., 2019): a classifier that is optimal in every environment at once. With a scale s = 1
//! on the logits, the penalty of an environment is |d CE(s z, y) / ds|^2; its unbiased estimate is the product of the derivatives
//! g over the even and over the odd rows, which may be negative (upstream issues 17 and 41).
//!
//!     g = mean_k (sum_c p_kc z_kc - z_k,y_k),  p = softmax(z)       loss = mean_e CE_e + w mean_e g_even g_odd
//!
//! w is 1 until `irm_penalty_anneal_iters` and `irm_lambda` from then on, when Adam starts anew. The derivative is recorded in
//! closed form, which the graph differentiates once more; a test compares it with differentiating twice.

use super::trainer::Batch;
use super::{Algorithm, Anneal, Setup, Step};
use crate::core::{DType, Graph, Tensor};
use anyhow::Result;

/// IRM.
pub struct Irm {
    weight: Anneal,
}

impl Irm {
    pub fn new(setup: &Setup) -> Self {
        Irm { weight: Anneal::new(setup, "irm_penalty_anneal_iters", 1.0, "irm_lambda") }
    }
}

impl Algorithm for Irm {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let logits = step.classify(step.features());
        let nll = g.mean(step.risks(logits), &[0]);
        let penalty = penalty(g, logits, step.one_hot(step.y), step.envs);
        let loss = g.add(nll, g.mul(g.input("penalty weight", &[1], DType::F32), penalty));
        step.adam(loss);
        vec![("loss", loss), ("nll", nll), ("penalty", penalty)]
    }

    fn inputs(&self, batch: &mut Batch) -> Result<()> {
        batch.write("penalty weight", &[self.weight.at(batch.step)])
    }

    fn adam_resets(&self) -> Vec<u32> {
        vec![self.weight.at]
    }
}

/// The mean penalty (1) of `envs` environments, from logits (E B, K) and labels as ones and zeros.
pub fn penalty(g: &Graph, logits: Tensor, one_hot: Tensor, envs: usize) -> Tensor {
    let b = logits.dim(0) / envs;
    let slope = g.sum(g.mul(g.sub(g.softmax(logits), one_hot), logits), &[1]);
    let slope = g.reshape(slope, &[envs, b]);
    let half = |parity: usize| {
        let rows = (b + 1 - parity) / 2;
        let mask: Vec<f32> = (0..b).map(|i| if i % 2 == parity { 1.0 / rows as f32 } else { 0.0 }).collect();
        g.sum(g.mul(slope, g.constant(&[1, b], &mask)), &[1])
    };
    g.reshape(g.mean(g.mul(half(0), half(1)), &[0]), &[1])
}
