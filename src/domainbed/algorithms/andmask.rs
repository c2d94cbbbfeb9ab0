//! AND-mask (Parascandolo et al., "Learning explanations that are hard to vary", 2020): a parameter moves only where the gradients g_e of
//! the environments agree in sign.
//!
//! ```text
//! mask = 1 where |mean_e sign g_e| >= tau      gradient = mask mean_e g_e / (1e-10 + mean of the mask over the tensor)
//! ```

use crate::core::Tensor;
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;

/// ANDMask.
pub struct AndMask {
    tau: f32,
}

impl AndMask {
    pub fn new(setup: &Setup) -> Self {
        AndMask { tau: setup.hparams.f32("tau") }
    }
}

impl Algorithm for AndMask {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let logits: Vec<Tensor> = step.features_by_env().into_iter().map(|f| step.classify(f)).collect();
        let risks = step.risks(g.concat(&logits, 0));
        let params = step.params(|_| true);
        let grads: Vec<Vec<Tensor>> =
            (0..step.envs).map(|e| g.backward(g.slice(risks, 0, e, 1), &params)).collect();
        let zero = step.number(0.0);
        let agreed: Vec<Tensor> = (0..params.len())
            .map(|i| {
                let of: Vec<Tensor> = grads.iter().map(|grads| grads[i]).collect();
                let signs: Vec<Tensor> =
                    of.iter().map(|&v| g.sub(g.less(zero, v), g.less(v, zero))).collect();
                let sign = step.mean(&signs);
                let differ = g.less(g.sqrt(g.mul(sign, sign)), step.number(self.tau));
                let mask = g.add_scalar(g.scale(differ, -1.0), 1.0);
                let share = g.mean(g.reshape(mask, &[mask.len()]), &[0]);
                g.div(g.mul(mask, step.mean(&of)), g.add_scalar(share, 1e-10))
            })
            .collect();
        step.descend(step.optimizer(), &params, &agreed);
        vec![("loss", g.mean(risks, &[0]))]
    }
}
