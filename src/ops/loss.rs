//! Softmax and losses.

use super::reduce::elements;
use crate::core::{Call, DType, Graph, Kernel, Tensor};

impl Graph {
    /// y = e^x / sum e^x over the last dimension.
    #[track_caller]
    pub fn softmax(&self, x: Tensor) -> Tensor {
        let y = self.softmax_of_scaled(x, 1.0);
        self.vjp(y, move |g, dy| vec![(x, g.softmax_backward(y, dy))]);
        y
    }

    /// softmax(scale x), without a backward.
    pub(super) fn softmax_of_scaled(&self, x: Tensor, scale: f32) -> Tensor {
        self.softmax_rows("softmax", x).float(scale).input(x).output(x.shape())
    }

    /// dx = y (dy - sum y dy), with y of softmax.
    pub(super) fn softmax_backward(&self, y: Tensor, dy: Tensor) -> Tensor {
        let dx = self.softmax_rows("backward", y).input(y).input(dy).output(y.shape());
        self.vjp(dx, move |g, v| {
            let dot = |a, b| g.sum(g.mul(a, b), &[y.rank() - 1]);
            let to_y = g.sub(g.mul(v, g.sub(dy, dot(y, dy))), g.mul(dy, dot(y, v)));
            vec![(y, to_y), (dy, g.softmax_backward(y, v))]
        });
        dx
    }

    /// y = x - ln sum e^x over the last dimension.
    #[track_caller]
    pub fn log_softmax(&self, x: Tensor) -> Tensor {
        let y = self.softmax_rows("log_softmax", x).input(x).output(x.shape());
        self.vjp(y, move |g, dy| vec![(x, g.sub(dy, g.mul(g.exp(y), g.sum(dy, &[y.rank() - 1]))))]);
        y
    }

    /// Mean over the rows of `-log_softmax(logits)[label]`, (1): torch's `cross_entropy` of logits (N, C) and labels U32 (N), which
    /// must be below C.
    #[track_caller]
    pub fn cross_entropy(&self, logits: Tensor, labels: Tensor) -> Tensor {
        self.mean(self.cross_entropy_rows(logits, labels), &[0])
    }

    /// `-log_softmax(logits)[label]` of each row, (N): torch's `cross_entropy` without a reduction.
    #[track_caller]
    pub fn cross_entropy_rows(&self, logits: Tensor, labels: Tensor) -> Tensor {
        let rows = logits.len() / logits.last();
        assert!(
            labels.dtype() == DType::U32 && labels.len() == rows,
            "cross_entropy of {logits:?} and labels {labels:?}: (N, C) and U32 (N)"
        );
        let losses =
            self.softmax_rows("nll", logits).input(logits).input(labels).input(logits).output(&[rows]);
        self.vjp(losses, move |g, d| vec![(logits, g.nll_backward(logits, labels, d))]);
        losses
    }

    /// (softmax(logits) - onehot(labels)) d, with a number d (N) for each row.
    fn nll_backward(&self, logits: Tensor, labels: Tensor, d: Tensor) -> Tensor {
        let call = self.softmax_rows("nll_backward", logits).input(logits).input(labels).input(d);
        let dx = call.output(logits.shape());
        self.vjp(dx, move |g, v| {
            let (rows, c) = (d.len(), logits.last());
            let ones = g.constant(&[rows], &vec![1.0; rows]);
            let wide = |t| g.reshape(t, &[rows, c]);
            let to_d = g.sum(g.mul(wide(v), wide(g.nll_backward(logits, labels, ones))), &[1]);
            let to_logits = g.mul(wide(g.softmax_backward(g.softmax(logits), v)), g.reshape(d, &[rows, 1]));
            vec![(logits, to_logits), (d, to_d)]
        });
        dx
    }

    /// Mean of (a - b)^2, (1); equal shapes.
    #[track_caller]
    pub fn mse_loss(&self, a: Tensor, b: Tensor) -> Tensor {
        assert_eq!(a.shape(), b.shape(), "mse_loss");
        let d = self.reshape(self.sub(a, b), &[a.len()]);
        self.mean(self.mul(d, d), &[0])
    }

    /// The `q`-quantile (above 0, below 1) of a normal kernel density estimate of x (N), N at least 2, with a bandwidth of
    /// 1.06 std N^-0.2 ("Gauss-optimal"), (1). It is bisected between the quantiles of the kernels of the smallest and the largest
    /// element, and the gradient flows through these two, as in EQRM (Eastwood et al., "Probable domain generalization via
    /// quantile risk minimization", 2022).
    #[track_caller]
    pub fn kde_quantile(&self, x: Tensor, q: f64) -> Tensor {
        let n = x.len();
        assert!(x.rank() == 1 && n > 1 && 0.0 < q && q < 1.0, "kde_quantile {q} of {x:?}");
        let away = self.sub(x, self.mean(x, &[0]));
        let variance = self.scale(self.sum(self.mul(away, away), &[0]), 1.0 / (n - 1) as f32);
        // Equal risks have no spread: 1e-20 bounds the root's slope there.
        let width = self.scale(self.sqrt(self.add_scalar(variance, 1e-20)), 1.06 * (n as f32).powf(-0.2));
        let tail = self.scale(width, normal_quantile(q) as f32);
        let smallest = self.scale(self.max(self.scale(x, -1.0), &[0]), -1.0);
        let (lo, hi) = (self.add(smallest, tail), self.add(self.max(x, &[0]), tail));
        let call = self.call(Kernel::new("kde_quantile", "main").part("act/gelu"));
        let w = call.input(x).input(lo).input(hi).input(width).ints([n]).float(q as f32).output(&[1]);
        let w = self.stop_gradient(w);
        self.add(lo, self.mul(w, self.sub(hi, lo)))
    }

    /// Records a kernel of softmax.wgsl over the rows of a tensor like `x`.
    fn softmax_rows(&self, entry: &'static str, x: Tensor) -> Call<'_> {
        let c = x.last();
        let each = if c % 4 == 0 { 4 } else { 1 };
        let kernel = elements(Kernel::new("softmax", entry), c);
        self.call_rows(kernel, x.len() / c, c).ints([x.len() / c, c / each])
    }
}

/// z with Phi(z) = q, for the normal distribution's integral Phi.
fn normal_quantile(q: f64) -> f64 {
    let (mut from, mut to) = (-40.0, 40.0);
    for _ in 0..100 {
        let z = 0.5 * (from + to);
        let left = 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2) > q;
        (from, to) = if left { (from, z) } else { (z, to) };
    }
    0.5 * (from + to)
}
