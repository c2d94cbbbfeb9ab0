//! Inter-domain mixup (Xu et al., "Adversarial domain adaptation with domain mixup", 2019; Yan et al., "Improve unsupervised domain
//! adaptation with mixup training", 2020): pairs (i, j) of neighbours in a random ring of the environments, one lambda ~ Beta(a, a)
//! for a whole pair, row by row.
//!
//! ```text
//! x = lambda x_i + (1 - lambda) x_j      loss = mean over pairs of lambda CE(x, y_i) + (1 - lambda) CE(x, y_j)
//! ```

use crate::core::{DType, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;

/// Mixup.
pub struct Mixup {
    alpha: f64,
}

impl Mixup {
    pub fn new(setup: &Setup) -> Self {
        Mixup { alpha: f64::from(setup.hparams.f32("mixup_alpha")) }
    }
}

impl Algorithm for Mixup {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, rows) = (step.g, step.x.dim(0));
        let flat = g.reshape(step.x, &[rows, 0]);
        let (alpha, ids) = (self.alpha, (DType::U32, &[rows][..]));
        let kinds = [(DType::F32, &[rows, 1][..]), ids, ids, ids, ids];
        let [lam, first, second, first_labels, second_labels] = step.inputs(kinds, move |batch| {
            let ring = batch.permutation(batch.envs)?;
            let mut rows = [vec![], vec![]];
            let mut lams = vec![];
            for i in 0..ring.len() {
                let lam = batch.beta(alpha)?;
                lams.extend(vec![lam; batch.size]);
                for (rows, e) in rows.iter_mut().zip([ring[i], ring[(i + 1) % ring.len()]]) {
                    rows.extend((e * batch.size..(e + 1) * batch.size).map(|r| r as u32));
                }
            }
            let labels = |rows: &Vec<u32>| rows.iter().map(|&r| batch.labels[r as usize]).collect::<Vec<_>>();
            let [first_labels, second_labels] = rows.each_ref().map(labels);
            let [first, second] = rows;
            Ok([lams.into(), first.into(), second.into(), first_labels.into(), second_labels.into()])
        });
        let rest = g.add_scalar(g.scale(lam, -1.0), 1.0);
        let mixed = g.add(g.mul(g.gather_rows(flat, first), lam), g.mul(g.gather_rows(flat, second), rest));
        let mixed = g.reshape(mixed, step.x.shape());
        let logits = step.classify(step.features_of(&step.w, mixed, step.envs));
        let risk = |of, labels, share| {
            let losses = g.cross_entropy_rows(logits, labels);
            let share = match step.weights {
                Some(weights) => g.mul(share, g.gather_rows(g.reshape(weights, &[rows, 1]), of)),
                None => share,
            };
            g.mul(losses, g.reshape(share, &[rows]))
        };
        let loss = g.mean(g.add(risk(first, first_labels, lam), risk(second, second_labels, rest)), &[0]);
        step.adam(loss);
        vec![("loss", loss)]
    }
}
