//! Meta-learning for domain generalization (Li et al., "Learning to generalize", 2017), first order: a step on one environment should
//! help on another. In a random order of the environments the last `n_meta_test` test and the others train; for each pair (i, j):
//!
//! ```text
//! phi = theta;  g_i = d CE_i / d phi;  phi' = phi after one step of a fresh Adam;  g_j = d CE_j / d phi'
//! gradient of theta += (g_i + mldg_beta g_j) / E
//! ```
//!
//! The first step of an Adam is lr g' / (|g'| + eps), with g' = g_i + weight_decay phi. In 2020 the pairs were the neighbours in a
//! ring. The division is by E though there are fewer pairs.
//!
//! With as many environments to test on as there are, upstream has no pair and trains nothing, without a word: this is refused,
//! and with --fixed, one environment is kept to train on. Upstream's copies keep running statistics of batch normalisation to
//! themselves, so that its network is evaluated with those it started from; here they are the network's.

use crate::core::{DType, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::hparams::Preset;
use crate::domainbed::step::Step;
use anyhow::{Result, bail};

/// MLDG.
pub struct Mldg {
    beta: f32,
    /// Places in the random order: trained on, tested on.
    pairs: Vec<(usize, usize)>,
}

impl Mldg {
    pub fn new(setup: &Setup) -> Result<Self> {
        let (beta, e) = (setup.hparams.f32("mldg_beta"), setup.envs);
        if setup.preset == Preset::Db2020 {
            return Ok(Mldg { beta, pairs: (0..e).map(|i| (i, (i + 1) % e)).collect() });
        }
        let mut k = setup.hparams.usize("n_meta_test");
        if setup.corrected {
            k = k.min(e.saturating_sub(1).max(1));
        }
        if k >= e {
            bail!(
                "MLDG with n_meta_test = {k} and {e} training environments would train nothing: choose fewer \
                 (--hparams '{{\"n_meta_test\": 1}}'), or --fixed MLDG"
            );
        }
        Ok(Mldg { beta, pairs: (0..e - k).map(|i| (i, e - k + i % k)).collect() })
    }
}

impl Algorithm for Mldg {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, rows) = (step.g, step.x.dim(0));
        let [order] = step.inputs([(DType::U32, &[rows])], |batch| {
            let (size, order) = (batch.size, batch.permutation(batch.envs)?);
            let rows = order.iter().flat_map(|&e| e * size..(e + 1) * size).map(|r| r as u32);
            Ok([rows.collect::<Vec<_>>().into()])
        });
        let x = g.gather_rows(g.reshape(step.x, &[rows, 0]), order);
        let x = g.reshape(x, step.x.shape());
        let targets = g.gather_rows(step.targets(), order);
        step.declare();
        let (names, params): (Vec<_>, Vec<_>) = step.named_params().into_iter().unzip();
        let optimizer = step.optimizer();
        let share = 1.0 / step.envs as f32;

        let mut total: Option<Vec<Tensor>> = None;
        let mut losses = vec![];
        for &(i, j) in &self.pairs {
            let logits = step.classify(step.features_of(&step.w, step.env(x, i), 1));
            let loss_i = step.risk(logits, step.env(targets, i));
            let grads_i = g.backward(loss_i, &params);
            let moved = |(&theta, &grad): (&Tensor, &Tensor)| {
                let down = match optimizer.adam.weight_decay {
                    0.0 => grad,
                    decay => g.add(grad, g.scale(theta, decay)),
                };
                let size = g.add_scalar(g.sqrt(g.mul(down, down)), optimizer.adam.eps);
                g.stop_gradient(g.sub(theta, g.mul(g.div(down, size), optimizer.lr)))
            };
            let inner: Vec<Tensor> = params.iter().zip(&grads_i).map(moved).collect();
            let w = step.w.overlay(names.iter().cloned().zip(inner.iter().copied()).collect());
            let logits = step.network.classify(&w, step.features_of(&w, step.env(x, j), 1));
            let loss_j = step.risk(logits, step.env(targets, j));
            let grads_j = g.backward(loss_j, &inner);
            let both = |a, b, scale| g.add(g.scale(a, share), g.scale(b, scale));
            let pair = grads_i.iter().zip(&grads_j).map(|(&a, &b)| both(a, b, self.beta * share));
            total = Some(match total {
                None => pair.collect(),
                Some(total) => total.into_iter().zip(pair).map(|(a, b)| g.add(a, b)).collect(),
            });
            losses.push(g.add(loss_i, g.scale(loss_j, self.beta)));
        }
        step.descend(optimizer, &params, &total.expect("at least one pair"));
        vec![("loss", g.scale(step.sum(&losses), share))]
    }
}
