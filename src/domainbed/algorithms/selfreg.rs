//! SelfReg (Kim et al., "SelfReg: self-supervised contrastive regularization for domain generalization", 2021): logits O and features
//! F are drawn towards those of other samples of the same class, in any environment; Q = P(F) with a projection head P.
//!
//! ```text
//! O2, Q2: rows of a permutation within each class; O3, Q3: mixtures lambda O2 + (1 - lambda) of a second permutation's
//! loss = CE + min(CE, 1) [ lambda (MSE(O, O2) + 0.3 MSE(F, Q2)) + (1 - lambda) (MSE(O, O3) + 0.3 MSE(F, Q3)) ]
//! ```
//!
//! lambda ~ Beta(1/2, 1/2), one per step; min(CE, 1) is a constant. Upstream makes P after the optimizer, so that it stays as it was
//! drawn, though gradients pass through it (issue 62: the published numbers were made so). With --fixed, P is trained.

use crate::core::{DType, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::draws::Batch;
use crate::domainbed::step::Step;
use crate::nn::{self, KEEP, NormMode};
use anyhow::Result;

/// SelfReg.
pub struct SelfReg {
    corrected: bool,
}

/// The projection head's name in a checkpoint.
const HEAD: &str = "cdpl";

impl SelfReg {
    pub fn new(setup: &Setup) -> Self {
        SelfReg { corrected: setup.corrected }
    }

    fn project(&self, step: &Step, f: Tensor) -> Tensor {
        let (g, w, d) = (step.g, step.w.sub(HEAD), f.last());
        let hidden = if d == 2048 { d } else { 2 * d };
        let layer = |x, linear: &str, norm: &str, out| {
            nn::batch_norm(
                &w.sub(norm),
                nn::linear(&w.sub(linear), x, out),
                NormMode::Live { groups: 1 },
                KEEP,
            )
        };
        let x = g.relu(layer(f, "0", "1", hidden));
        let x = g.relu(layer(x, "3", "4", hidden));
        layer(x, "6", "7", d)
    }
}

impl Algorithm for SelfReg {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, rows) = (step.g, step.x.dim(0));
        let f = step.features();
        let (q, o) = (self.project(step, f), step.classify(f));
        let ids = (DType::U32, &[rows][..]);
        let [lam, first, second] = step.inputs([(DType::F32, &[1]), ids, ids], |batch| {
            let lam = batch.beta(0.5)?;
            let [first, second] = partners(batch)?;
            Ok([lam.into(), first.into(), second.into()])
        });
        let rest = g.add_scalar(g.scale(lam, -1.0), 1.0);
        let mix = |a, b| g.add(g.mul(a, lam), g.mul(b, rest));
        let others = |x| {
            let x2 = g.gather_rows(x, first);
            (x2, mix(x2, g.gather_rows(x, second)))
        };
        let ((o2, o3), (q2, q3)) = (others(o), others(q));
        let pull = |o2, q2| g.add(g.mse_loss(o, o2), g.scale(g.mse_loss(f, q2), 0.3));
        let ce = step.cross_entropy(o);
        // min(ce, 1) = 1 - relu(1 - ce)
        let short = g.relu(g.add_scalar(g.scale(ce, -1.0), 1.0));
        let scale = g.stop_gradient(g.add_scalar(g.scale(short, -1.0), 1.0));
        let loss = g.add(ce, g.mul(scale, mix(pull(o2, q2), pull(o3, q3))));
        let params = step.params(|name| self.corrected || !name.starts_with(HEAD));
        step.descend(step.optimizer(), &params, &g.backward(loss, &params));
        vec![("loss", loss)]
    }
}

/// For each sample two others of its class, or itself.
fn partners(batch: &mut Batch) -> Result<[Vec<u32>; 2]> {
    let rows = argsort(batch.labels);
    // Upstream starts with an empty class where none of the batch has label 0, and draws for it.
    if batch.labels[rows[0]] > 0 {
        batch.permutation(0)?;
        batch.permutation(0)?;
    }
    let mut ids = [vec![0; rows.len()], vec![0; rows.len()]];
    for class in rows.chunk_by(|&a, &b| batch.labels[a] == batch.labels[b]) {
        for ids in &mut ids {
            for (&row, other) in class.iter().zip(batch.permutation(class.len())?) {
                ids[row] = class[other] as u32;
            }
        }
    }
    Ok(ids)
}

/// The order in which torch.sort puts small whole numbers on a CPU: that of libstdc++'s std::sort, which is not stable. It decides
/// which samples upstream's permutations name, so that recordings depend on it.
fn argsort(keys: &[u32]) -> Vec<usize> {
    /// Shorter runs are left to insertion.
    const SHORT: usize = 16;
    let key = |order: &[usize], i: usize| keys[order[i]];
    let mut order: Vec<usize> = (0..keys.len()).collect();
    let mut runs = vec![(0, keys.len())];
    while let Some((first, last)) = runs.pop() {
        if last - first <= SHORT {
            continue;
        }
        // The median of three is the pivot, and goes to the front.
        let (a, b, c) = (first + 1, first + (last - first) / 2, last - 1);
        let less = |x: usize, y: usize| key(&order, x) < key(&order, y);
        let median = match (less(a, b), less(b, c), less(a, c)) {
            (true, true, _) => b,
            (true, false, true) => c,
            (true, false, false) => a,
            (false, _, true) => a,
            (false, true, false) => c,
            (false, false, false) => b,
        };
        order.swap(first, median);
        let pivot = key(&order, first);
        let (mut left, mut right) = (first + 1, last);
        let cut = loop {
            while key(&order, left) < pivot {
                left += 1;
            }
            right -= 1;
            while pivot < key(&order, right) {
                right -= 1;
            }
            if left >= right {
                break left;
            }
            order.swap(left, right);
            left += 1;
        };
        runs.extend([(first, cut), (cut, last)]);
    }
    // Insertion keeps the order of equals.
    order.sort_by_key(|&i| keys[i]);
    order
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_ordered_as_torch_orders_them() {
        let labels = [3, 3, 1, 1, 0, 1, 3, 0, 3, 3, 1, 1, 3, 0, 3, 2, 3, 2];
        let torch = [4, 7, 13, 2, 3, 5, 10, 11, 17, 15, 9, 16, 14, 12, 0, 8, 6, 1];
        assert_eq!(super::argsort(&labels), torch);
        assert_eq!(super::argsort(&[1, 0, 1, 0]), [1, 3, 0, 2]);
    }
}
