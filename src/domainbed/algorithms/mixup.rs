//! Inter-domain mixup (Xu et al., "Adversarial domain adaptation with domain mixup", 2019; Yan et al., "Improve unsupervised domain
//! adaptation with mixup training", 2020): pairs (i, j) of neighbours in a random ring of the environments, one lambda ~ Beta(a, a)
//! for a whole pair, row by row.
//!
//! ```text
//! x = lambda x_i + (1 - lambda) x_j      loss = mean over pairs of lambda CE(x, y_i) + (1 - lambda) CE(x, y_j)
//! ```

use crate::core::{DType, Tensor};
use crate::domainbed::trainer::Batch;
use crate::domainbed::{Algorithm, Setup, Step};
use anyhow::Result;

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
        let ids = |name: &str| g.input(name, &[rows], DType::U32);
        let lam = g.input("lambda", &[rows, 1], DType::F32);
        let rest = g.add_scalar(g.scale(lam, -1.0), 1.0);
        let first = g.mul(g.gather_rows(flat, ids("first")), lam);
        let mixed = g.add(first, g.mul(g.gather_rows(flat, ids("second")), rest));
        let mixed = g.reshape(mixed, step.x.shape());
        let logits = step.classify(step.features_of(&step.w, mixed, step.envs));
        let risk = |labels, share| {
            let losses = g.cross_entropy_rows(logits, ids(labels));
            g.mul(losses, g.reshape(share, &[rows]))
        };
        let loss = g.mean(g.add(risk("first labels", lam), risk("second labels", rest)), &[0]);
        step.adam(loss);
        vec![("loss", loss)]
    }

    fn inputs(&self, batch: &mut Batch) -> Result<()> {
        let ring = batch.permutation(batch.envs)?;
        let mut rows = [vec![], vec![]];
        let mut lams = vec![];
        for i in 0..ring.len() {
            let lam = batch.beta(self.alpha)?;
            lams.extend(vec![lam; batch.size]);
            for (rows, e) in rows.iter_mut().zip([ring[i], ring[(i + 1) % ring.len()]]) {
                rows.extend((e * batch.size..(e + 1) * batch.size).map(|r| r as u32));
            }
        }
        let [first, second] = &rows;
        let labels = |rows: &[u32]| rows.iter().map(|&r| batch.labels[r as usize]).collect::<Vec<_>>();
        let (first_labels, second_labels) = (labels(first), labels(second));
        batch.write("lambda", &lams)?;
        batch.write_u32("first", first)?;
        batch.write_u32("second", second)?;
        batch.write_u32("first labels", &first_labels)?;
        batch.write_u32("second labels", &second_labels)
    }
}
