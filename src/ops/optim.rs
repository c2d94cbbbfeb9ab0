//! Optimizer steps that update states in place.

use crate::core::{DType, Graph, Init, Kernel, Tensor};

/// Options of [`Graph::adam`]; the defaults are torch's.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Decay rates of the two moments.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// L2 penalty, or with `decoupled` the decay of AdamW.
    pub weight_decay: f32,
    /// AdamW: parameters shrink directly instead of through the gradient.
    pub decoupled: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled: false }
    }
}

/// Options of [`Graph::sgd`]; the defaults are torch's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sgd {
    /// Share of the last step's direction that is kept.
    pub momentum: f32,
    /// L2 penalty.
    pub weight_decay: f32,
}

impl Graph {
    /// One step of torch's Adam or AdamW on each (parameter, gradient), in place. `lr` and `step` (from 1 on) are one number each.
    /// The moments are the states `NAME.exp_avg` and `NAME.exp_avg_sq`. Returns the new parameters, to which no gradient flows back
    /// through the step, as torch takes it under `no_grad`.
    #[track_caller]
    pub fn adam(&self, params: &[(Tensor, Tensor)], lr: Tensor, step: Tensor, adam: Adam) -> Vec<Tensor> {
        let (beta1, beta2) = adam.betas;
        let update = |&(x, grad): &(Tensor, Tensor)| {
            let [m, v] = [self.moment(x, "exp_avg"), self.moment(x, "exp_avg_sq")];
            let call = self.call(Kernel::new("optim", "adam")).input(grad).input(lr).input(step);
            let call = call.ints([x.len(), adam.decoupled as usize]).float(beta1).float(beta2);
            let call = call.float((beta1 as f64).ln() as f32).float((beta2 as f64).ln() as f32);
            let call = call.float(adam.eps).float(adam.weight_decay);
            let y = call.threads(x.len().div_ceil(4), 64).update(&[x, m, v])[0];
            self.vjp(y, |_, _| vec![]);
            y
        };
        params.iter().map(update).collect()
    }

    /// One step of torch's SGD on each (parameter, gradient), in place. `lr` is one number. The direction is the state
    /// `NAME.momentum_buffer`. Returns the new parameters, as [`Graph::adam`].
    #[track_caller]
    pub fn sgd(&self, params: &[(Tensor, Tensor)], lr: Tensor, sgd: Sgd) -> Vec<Tensor> {
        let update = |&(x, grad): &(Tensor, Tensor)| {
            let m = self.moment(x, "momentum_buffer");
            let call = self.call(Kernel::new("optim", "sgd")).input(grad).input(lr).ints([x.len()]);
            let call = call.float(sgd.momentum).float(sgd.weight_decay);
            let y = call.threads(x.len().div_ceil(4), 64).update(&[x, m])[0];
            self.vjp(y, |_, _| vec![]);
            y
        };
        params.iter().map(update).collect()
    }

    /// state = rate state + (1 - rate) x, in place; `rate` is one number. Returns the new state.
    #[track_caller]
    pub fn ema(&self, state: Tensor, x: Tensor, rate: Tensor) -> Tensor {
        assert_eq!(state.shape(), x.shape(), "ema");
        let call = self.call(Kernel::new("optim", "ema")).input(x).input(rate).ints([x.len()]);
        call.threads(x.len().div_ceil(4), 64).update(&[state])[0]
    }

    /// state = x, in place. Returns the new state.
    #[track_caller]
    pub fn assign(&self, state: Tensor, x: Tensor) -> Tensor {
        self.ema(state, x, self.constant(&[1], &[0.0]))
    }

    /// Gradients scaled so that their global norm is at most `max_norm`, as torch's clip_grad_norm_; and that norm before.
    #[track_caller]
    pub fn clip_grad_norm(&self, grads: &[Tensor], max_norm: f32) -> (Vec<Tensor>, Tensor) {
        let squares = grads.iter().map(|&g| {
            let flat = self.reshape(g, &[g.len()]);
            self.sum(self.mul(flat, flat), &[0])
        });
        let total = squares.reduce(|a, b| self.add(a, b)).expect("clip_grad_norm of no gradients");
        let norm = self.sqrt(total);
        // min(1, c) = 1 - relu(1 - c)
        let ratio = self.div(self.constant(&[1], &[max_norm]), self.add_scalar(norm, 1e-6));
        let excess = self.relu(self.add_scalar(self.scale(ratio, -1.0), 1.0));
        let factor = self.add_scalar(self.scale(excess, -1.0), 1.0);
        (grads.iter().map(|&g| self.mul(g, factor)).collect(), norm)
    }

    /// An optimizer's state beside the state `x`.
    #[track_caller]
    fn moment(&self, x: Tensor, suffix: &str) -> Tensor {
        let name = self.state_name(x).unwrap_or_else(|| panic!("{x:?} is no state: it cannot be trained"));
        self.state(&format!("{name}.{suffix}"), x.shape(), DType::F32, Init::Zeros)
    }
}
