//! Domain-adversarial networks: a discriminator D tells environments apart by features, which learn to give it nothing.
//!
//! ```text
//! disc_loss = mean CE(D(z), env) + grad_penalty mean_k |d (sum CE) / dz_k|^2        trains D
//! gen_loss  = CE(c(z), y) - lambda disc_loss                                         trains the featurizer and c
//! ```
//!
//! DANN (Ganin et al., 2015); CDANN (Li et al., "Deep domain generalization via conditional invariant adversarial networks", 2018)
//! adds an embedding of the label to z and weighs classes alike: w_k = 1 / (count of y_k in the batch, times the largest label + 1).
//! The two losses take turns, each with an Adam of its own: with d = `d_steps_per_g_step`, update n (from 1 on) trains the rest where
//! n mod (1 + d) = d, and D otherwise. The penalty of db2020 was the gradient of the sum of all environments' probabilities, which is zero.

use crate::core::{DType, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::hparams::Preset;
use crate::domainbed::network::{Mlp, mlp};
use crate::domainbed::step::{Optimizer, Step};
use crate::ops::Adam;

/// DANN, and with labels CDANN.
pub struct Dann {
    conditional: bool,
    lambda: f32,
    grad_penalty: f32,
    beta1: f32,
    /// Updates of the discriminator to one of the generator.
    d_steps: u32,
    /// Learning rate and weight decay of generator and discriminator.
    rates: [(f32, f32); 2],
    mlp: Mlp,
}

const GENERATOR: usize = 0;
const DISCRIMINATOR: usize = 1;

impl Dann {
    pub fn new(setup: &Setup, conditional: bool) -> Self {
        let h = setup.hparams;
        let old = setup.preset == Preset::Db2020;
        Dann {
            conditional,
            lambda: h.f32("lambda"),
            grad_penalty: if old { 0.0 } else { h.f32("grad_penalty") },
            beta1: h.f32("beta1"),
            d_steps: h.usize("d_steps_per_g_step") as u32,
            rates: [("lr_g", "weight_decay_g"), ("lr_d", "weight_decay_d")]
                .map(|(a, b)| (h.f32(a), h.f32(b))),
            mlp: Mlp {
                width: h.usize("mlp_width"),
                depth: h.usize("mlp_depth"),
                outputs: setup.envs,
                dropout: h.f32("mlp_dropout"),
            },
        }
    }
}

impl Algorithm for Dann {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, rows) = (step.g, step.x.dim(0));
        let z = step.features();
        let seen = match self.conditional {
            true => {
                let table = step.w.sub("class_embeddings").get("weight", &[step.network.classes, z.last()]);
                g.add(z, g.gather_rows(table, step.y))
            }
            false => z,
        };
        let guess = mlp(&step.w.sub("discriminator"), seen, &self.mlp, |x| step.dropout(x, self.mlp.dropout));
        let envs: Vec<u32> = (0..rows).map(|row| (row / step.batch()) as u32).collect();
        let [envs] = step.inputs([(DType::U32, &[rows])], move |_| Ok([envs.clone().into()]));
        let losses = g.cross_entropy_rows(guess, envs);
        let mut disc_loss = match self.conditional {
            true => {
                let [weights] =
                    step.inputs([(DType::F32, &[rows])], |batch| Ok([class_weights(batch.labels).into()]));
                g.sum(g.mul(losses, weights), &[0])
            }
            false => g.mean(losses, &[0]),
        };
        if self.grad_penalty > 0.0 {
            let slope = g.backward(g.sum(losses, &[0]), &[seen])[0];
            let square = g.sum(g.mul(slope, slope), &[0, 1]);
            let penalty = g.scale(g.reshape(square, &[1]), self.grad_penalty / rows as f32);
            disc_loss = g.add(disc_loss, penalty);
        }
        let ours = |name: &str| name.starts_with("discriminator.") || name.starts_with("class_embeddings.");
        let (lr, weight_decay) = self.rates[step.turn];
        let adam = Adam { betas: (self.beta1, 0.9), weight_decay, ..Adam::default() };
        let optimizer = Optimizer { lr: step.number(lr), adam, ..step.optimizer() };
        if step.turn == DISCRIMINATOR {
            let params = step.params(ours);
            step.descend(optimizer, &params, &g.backward(disc_loss, &params));
            return vec![("disc_loss", disc_loss)];
        }
        let risk = step.cross_entropy(step.classify(z));
        let gen_loss = g.sub(risk, g.scale(disc_loss, self.lambda));
        let params = step.params(|name| !ours(name));
        step.descend(optimizer, &params, &g.backward(gen_loss, &params));
        vec![("gen_loss", gen_loss)]
    }

    fn turns(&self) -> usize {
        2
    }

    fn turn(&self, step: u32) -> usize {
        if (step + 1) % (1 + self.d_steps) < self.d_steps { DISCRIMINATOR } else { GENERATOR }
    }

    fn adam_step(&self, step: u32) -> u32 {
        let generators = (step + 2) / (1 + self.d_steps);
        if self.turn(step) == GENERATOR { generators } else { step + 1 - generators }
    }
}

/// Weights of samples that make classes count alike.
fn class_weights(labels: &[u32]) -> Vec<f32> {
    let classes = labels.iter().max().map_or(0, |&l| l as usize + 1);
    let mut counts = vec![0u32; classes];
    labels.iter().for_each(|&l| counts[l as usize] += 1);
    labels.iter().map(|&l| 1.0 / (counts[l as usize] as f32 * classes as f32)).collect()
}
