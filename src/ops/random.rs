//! Random numbers by counter, and dropout.

use crate::core::{DType, Graph, Kernel, Tensor};

impl Graph {
    /// Uniform numbers in [0, 1): element i is [`crate::data::rng::Key::uniform`] of i, bit for bit, for the `key` U32 (4).
    #[track_caller]
    pub fn random_uniform(&self, key: Tensor, shape: &[usize]) -> Tensor {
        self.random("uniform_numbers", key, shape)
    }

    /// Standard normal numbers: element i is [`crate::data::rng::Key::normal`] of i for the `key` U32 (4), up to the rounding of the
    /// device's logarithm, sine and cosine.
    #[track_caller]
    pub fn random_normal(&self, key: Tensor, shape: &[usize]) -> Tensor {
        self.random("normal_numbers", key, shape)
    }

    #[track_caller]
    fn random(&self, entry: &'static str, key: Tensor, shape: &[usize]) -> Tensor {
        assert!(key.dtype() == DType::U32 && key.len() == 4, "{key:?} is no key: U32 (4)");
        let n: usize = shape.iter().product();
        self.call(Kernel::new("random", entry)).input(key).ints([n]).threads(n.div_ceil(4), 64).output(shape)
    }

    /// y = x / (1 - p) where `mask`, uniform numbers of x's shape, is at least p (below 1), else 0: torch's `dropout` with its draw
    /// as an input.
    #[track_caller]
    pub fn dropout(&self, x: Tensor, mask: Tensor, p: f32) -> Tensor {
        assert!(mask.shape() == x.shape() && (0.0..1.0).contains(&p), "dropout of {x:?} by {mask:?}, p {p}");
        let mask = self.stop_gradient(mask);
        let call = self.call(Kernel::new("dropout", "main")).input(x).input(mask).ints([x.len()]).float(p);
        let y = call.threads(x.len().div_ceil(4), 64).output(x.shape());
        self.vjp(y, move |g, dy| vec![(x, g.dropout(dy, mask, p))]);
        y
    }
}
