//! Style-agnostic networks (Nam et al., "Reducing domain gap by reducing style bias", 2021): the style of a sample is the mean m and
//! the variance v of its feature vector, across the features (the network pools before it). Per update, with a fresh draw each:
//!
//!  1. content: loss_c = CE(c(xhat sqrt(v') + m'), y), m' and v' mixed with those of another sample; steps the featurizer and c
//!  2. style: loss_s = CE(s(xhat of another sample, as a constant, sqrt(v) + m), y); steps the style classifier s only
//!  3. adversarial: loss_adv = sag_w_adv mean(-log softmax(s(..))), to the uniform label; steps the featurizer only
//!
//! The three Adams are alike; the featurizer's counts two updates a step. predict = c(F(x)).

use crate::core::{DType, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;

/// SagNet.
pub struct SagNet {
    w_adv: f32,
}

/// The style classifier's name in a checkpoint.
const STYLE: &str = "network_s";

impl SagNet {
    pub fn new(setup: &Setup) -> Self {
        SagNet { w_adv: setup.hparams.f32("sag_w_adv") }
    }

    /// Features with the style of a mixture, or with the content of another sample, by a fresh draw.
    fn randomised(&self, step: &Step, f: Tensor, style: bool) -> Tensor {
        let (g, [rows, d]) = (step.g, [f.dim(0), f.last()]);
        let mean = g.mean(f, &[1]);
        let away = g.sub(f, mean);
        let var = g.scale(g.sum(g.mul(away, away), &[1]), 1.0 / (d - 1) as f32);
        let std = |var| g.sqrt(g.add_scalar(var, 1e-5));
        let content = g.div(away, std(var));
        // Upstream draws the mixture where it mixes nothing as well.
        let kinds = [(DType::F32, &[rows, 1][..]), (DType::U32, &[rows][..])];
        let [alpha, others] = step.inputs(kinds, move |batch| {
            let alpha = batch.uniforms(rows)?;
            let others: Vec<u32> = batch.permutation(rows)?.into_iter().map(|i| i as u32).collect();
            Ok([alpha.into(), others.into()])
        });
        if style {
            let mixed = |own: Tensor| {
                let other = g.gather_rows(own, others);
                g.add(other, g.mul(alpha, g.sub(own, other)))
            };
            g.add(g.mul(content, std(mixed(var))), mixed(mean))
        } else {
            let content = g.gather_rows(g.stop_gradient(content), others);
            g.add(g.mul(content, std(var)), mean)
        }
    }

    fn style(&self, step: &Step, features: Tensor) -> Tensor {
        step.network.head(&step.w.sub(STYLE), features)
    }
}

impl Algorithm for SagNet {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let is_style = |name: &str| name.starts_with(STYLE);
        let featurizer = |name: &str| !name.starts_with("fc.") && !is_style(name);
        let mut optimizer = step.optimizer();
        let first = g.add_scalar(g.scale(optimizer.count, 2.0), -1.0);

        let content = step.classify(self.randomised(step, step.features(), true));
        let loss_c = step.cross_entropy(content);
        let [f, c] = [step.params(featurizer), step.params(|name| name.starts_with("fc."))];
        let grads = g.backward(loss_c, &[f.clone(), c.clone()].concat());
        step.descend(optimizer, &c, &grads[f.len()..]);
        optimizer.count = first;
        step.descend(optimizer, &f, &grads[..f.len()]);

        let style = self.style(step, self.randomised(step, step.features(), false));
        let loss_s = step.cross_entropy(style);
        let s = step.params(is_style);
        step.descend(step.optimizer(), &s, &g.backward(loss_s, &s));

        let style = self.style(step, self.randomised(step, step.features(), false));
        let all = g.reshape(g.log_softmax(style), &[style.len()]);
        let loss_adv = g.scale(g.mean(all, &[0]), -self.w_adv);
        let f = step.params(featurizer);
        optimizer.count = g.add_scalar(first, 1.0);
        step.descend(optimizer, &f, &g.backward(loss_adv, &f));
        vec![("loss_c", loss_c), ("loss_s", loss_s), ("loss_adv", loss_adv)]
    }
}
