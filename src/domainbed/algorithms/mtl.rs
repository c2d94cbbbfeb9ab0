//! Marginal transfer learning (Blanchard et al., "Domain generalization by marginal transfer learning", 2011, 2021): the classifier
//! sees features joined with an embedding of their environment, an average of its features. loss = sum_e CE_e.
//!
//! ```text
//! r_e = mtl_ema mean F_e + (1 - mtl_ema) embedding_e      embedding_e = r_e      logits = c([F_e, r_e])
//! ```
//!
//! Upstream overwrites r_e with normal noise, in training and in prediction (issue 159), also where its published numbers come
//! from: this is kept. With --fixed, r_e itself is used, and the mean of the batch predicts.

use crate::core::{DType, Init, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::network::Pass;
use crate::domainbed::step::{Predict, Step};

/// MTL.
pub struct Mtl {
    ema: f32,
    corrected: bool,
}

impl Mtl {
    pub fn new(setup: &Setup) -> Self {
        Mtl { ema: setup.hparams.f32("mtl_ema"), corrected: setup.corrected }
    }
}

impl Algorithm for Mtl {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let features = step.features_by_env();
        let (b, d) = (step.batch(), features[0].last());
        let held = g.state("embeddings", &[step.envs, d], DType::F32, Init::Zeros);
        let moved = |(e, &f): (usize, &Tensor)| {
            let old = g.scale(g.slice(held, 0, e, 1), 1.0 - self.ema);
            g.add(g.scale(g.mean(f, &[0]), self.ema), old)
        };
        let embeddings: Vec<Tensor> = features.iter().enumerate().map(moved).collect();
        g.assign(held, g.stop_gradient(g.concat(&embeddings, 0)));
        let logits = |(e, &f): (usize, &Tensor)| {
            let beside = match self.corrected {
                true => g.expand(embeddings[e], &[b, d]),
                false => {
                    let [noise] =
                        step.inputs([(DType::F32, &[b, d])], move |batch| Ok([batch.normals(b * d)?.into()]));
                    noise
                }
            };
            step.classify(g.concat(&[f, beside], 1))
        };
        let logits: Vec<Tensor> = features.iter().enumerate().map(logits).collect();
        let loss = g.sum(step.risks(g.concat(&logits, 0)), &[0]);
        step.adam(loss);
        vec![("loss", loss)]
    }

    fn predict(&self, p: &Predict) -> Tensor {
        let f = p.network.features(&p.w, p.x, Pass::Predict);
        let beside = match self.corrected {
            true => p.g.expand(p.g.mean(f, &[0]), f.shape()),
            false => p.g.random_normal(p.key, f.shape()),
        };
        p.network.classify(&p.w, p.g.concat(&[f, beside], 1))
    }
}
