//! Fishr (Rame et al., "Fishr: invariant gradient variances for out-of-distribution generalization", 2021): the variances of
//! per-sample gradients of the classifier are alike in all environments.
//!
//! The gradient of sample k is delta_k = softmax(z)_k - onehot(y_k) for the bias and delta_k x F_k for the weight, so that the
//! variances of a batch need no gradient of any single sample:
//!
//! ```text
//! v_e = mean_k (delta^2 x F^2) - (mean_k delta x F)^2        u_e = v_e + ema h_e / (1 - ema),  h_e = (1 - ema) u_e, a constant
//! penalty = mean_e mean_j (u_ej - mean_e u_ej)^2             loss = CE + w penalty
//! ```
//!
//! w is 0 until `penalty_anneal_iters` and `lambda` from then on, when Adam starts anew. The averages h advance at every step, and
//! are part of a checkpoint here, which upstream forgets.

use crate::core::{DType, Graph, Init, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::anneal::Anneal;
use crate::domainbed::step::Step;
use crate::ops::Matmul;
use anyhow::{Result, bail};

/// Fishr.
pub struct Fishr {
    weight: Anneal,
    ema: f32,
}

impl Fishr {
    pub fn new(setup: &Setup) -> Result<Self> {
        if setup.hparams.bool("nonlinear_classifier") {
            bail!("Fishr is made for a linear classifier: nonlinear_classifier must be false");
        }
        let weight = Anneal::new(setup, "penalty_anneal_iters", 0.0, "lambda");
        Ok(Fishr { weight, ema: setup.hparams.f32("ema") })
    }
}

/// Variances (K, D + 1) of the gradients of weight and bias, from delta (n, K) and features (n, D).
pub fn variances(g: &Graph, delta: Tensor, features: Tensor) -> Tensor {
    let n = features.dim(0);
    let ones = g.constant(&[n, 1], &vec![1.0; n]);
    let inputs = g.concat(&[features, ones], 1);
    let mean = |a, b| {
        let product = g.matmul_with(a, b, Matmul { transpose_a: true, ..Matmul::default() });
        g.scale(product, 1.0 / n as f32)
    };
    let first = mean(delta, inputs);
    g.sub(mean(g.mul(delta, delta), g.mul(inputs, inputs)), g.mul(first, first))
}

impl Algorithm for Fishr {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let features = step.features();
        let logits = step.classify(features);
        let nll = step.cross_entropy(logits);
        let delta = g.sub(g.softmax(logits), step.one_hot(step.y));
        let used: Vec<Tensor> = (0..step.envs)
            .map(|e| {
                let v = variances(g, step.env(delta, e), step.env(features, e));
                let held = g.state(&format!("fishr.{e}"), v.shape(), DType::F32, Init::Zeros);
                let u = g.add(v, g.scale(held, self.ema / (1.0 - self.ema)));
                g.assign(held, g.stop_gradient(g.scale(u, 1.0 - self.ema)));
                u
            })
            .collect();
        let mean = step.mean(&used);
        let far: Vec<Tensor> = used.iter().map(|&u| g.mse_loss(u, mean)).collect();
        let penalty = step.mean(&far);
        let loss = g.add(nll, self.weight.times(step, penalty));
        step.adam(loss);
        vec![("loss", loss), ("nll", nll), ("penalty", penalty)]
    }

    fn adam_resets(&self) -> Vec<u32> {
        vec![self.weight.at]
    }
}

#[cfg(test)]
mod tests {
    use crate::core::{Gpu, GpuOptions, Graph, Plan, Store, Tensor};

    /// The mean squared distance of two variances from their mean, and its gradients with respect to all of `wrt`.
    fn output(g: &Graph, name: &str, v: [Tensor; 2], wrt: &[Tensor]) {
        let mean = g.scale(g.add(v[0], v[1]), 0.5);
        let penalty = g.scale(g.add(g.mse_loss(v[0], mean), g.mse_loss(v[1], mean)), 0.5);
        g.output(name, penalty);
        for (i, dx) in g.backward(penalty, wrt).into_iter().enumerate() {
            g.output(&format!("{name} {i}"), dx);
        }
    }

    #[test]
    fn the_penalty_equals_its_worked_example_and_so_do_gradients_those_through_every_samples_gradient() {
        let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
        let g = Graph::new(gpu.caps());
        let w = g.constant(&[2, 2], &[0.3, -0.2, 0.1, 0.4]);
        let bias = g.constant(&[2], &[0.05, -0.05]);
        let z = [[0.5, 1.0, 1.5, -0.3, 0.1, 0.6], [0.2, -0.1, 1.1, 0.9, -0.8, 0.5]]
            .map(|z| g.constant(&[3, 2], &z));
        let hot =
            [[1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]].map(|h| g.constant(&[3, 2], &h));
        let wrt = [z[0], z[1], w, bias];

        let closed = [0, 1].map(|e| {
            let p = g.softmax(g.linear(z[e], w, Some(bias)));
            super::variances(&g, g.sub(p, hot[e]), z[e])
        });
        output(&g, "closed", closed, &wrt);
        let generic = [0, 1].map(|e| {
            let rows: Vec<Tensor> = (0..3)
                .map(|k| {
                    let logits = g.linear(g.slice(z[e], 0, k, 1), w, Some(bias));
                    let right = g.mul(g.log_softmax(logits), g.slice(hot[e], 0, k, 1));
                    let grads = g.backward(g.scale(g.sum(right, &[0, 1]), -1.0), &[w, bias]);
                    g.concat(&[g.reshape(grads[0], &[1, 4]), g.reshape(grads[1], &[1, 2])], 1)
                })
                .collect();
            let all = g.concat(&rows, 0);
            let off = g.sub(all, g.mean(all, &[0]));
            g.mean(g.mul(off, off), &[0])
        });
        output(&g, "generic", generic, &wrt);

        let mut plan = Plan::new(&gpu, g, &Store::new(&gpu)).unwrap();
        plan.run().unwrap();
        let got = plan.read("closed").unwrap()[0];
        assert!((got / 0.0012634041261994342 - 1.0).abs() < 1e-4, "{got}");
        for name in ["", " 0", " 1", " 2", " 3"] {
            let [a, b] = ["closed", "generic"].map(|way| plan.read(&format!("{way}{name}")).unwrap());
            let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest > 1e-5, "{name}: {b:?}");
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 1e-4 * largest, "{name}: {a}, {b} through every sample's gradient");
            }
        }
    }
}
