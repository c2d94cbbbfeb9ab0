//! Attention that never stores its scores, and rotary position embedding.

use super::tuning;
use crate::core::{DType, Graph, Kernel, Tensor};

/// Options of [`Graph::attention`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    /// Factor of the scores; 1 / sqrt(D) by default.
    pub scale: Option<f32>,
    /// Query i sees the keys 0 to i only.
    pub causal: bool,
}

/// How the rows of a head are given to threads: an item is 4 `rows` rows, whose columns `parts` threads share, `columns` vectors
/// of four per thread; a workgroup has `items` items.
struct Split {
    rows: usize,
    columns: usize,
    parts: usize,
    items: usize,
    /// The columns of the threads of an item add up to just the width, and the kernel need not check.
    full: bool,
}

impl Split {
    /// For heads of `width` vectors.
    fn new(width: usize, tuned: tuning::Attention) -> Self {
        let parts = width.div_ceil(tuned.columns).next_power_of_two();
        let columns = width.div_ceil(parts);
        let full = columns * parts == width && tuned.unchecked;
        Split { rows: tuned.rows, columns, parts, items: (tuned.threads / parts).max(1), full }
    }

    /// The kernel of `shaders/FILE.wgsl`, which adds up `sums` blocks of scores for each block of rows.
    fn kernel(&self, file: &'static str, sums: usize) -> Kernel {
        let kernel = Kernel::new(file, "main")
            .int("R_i", self.rows)
            .int("R_d", self.columns)
            .int("PARTS", self.parts)
            .int("THREADS", self.items * self.parts)
            .int("SLOTS", sums * self.rows)
            .int("FULL", self.full as usize)
            .part("attention/rows");
        kernel.part(if self.parts == 1 { "attention/whole" } else { "attention/split" })
    }

    /// Workgroups for `heads` heads of `n` rows.
    fn groups(&self, heads: usize, n: usize) -> usize {
        (heads * n.div_ceil(4 * self.rows)).div_ceil(self.items)
    }
}

impl Graph {
    /// y = softmax(scale q k^T) v for each head: q (B, Tq, H, D), k and v (B, Tk, Hk, D) -> (B, Tq, H, D). Where Hk is smaller
    /// than H, neighbouring heads of q share one of k and v (grouped-query attention, Ainslie et al. 2023). f32.
    #[track_caller]
    pub fn attention(&self, q: Tensor, k: Tensor, v: Tensor, options: Attention) -> Tensor {
        assert!(
            q.rank() == 4
                && k.rank() == 4
                && k.shape() == v.shape()
                && q.dim(0) == k.dim(0)
                && q.dim(3) == k.dim(3)
                && q.dim(2) % k.dim(2) == 0,
            "attention of q {q:?}, k {k:?}, v {v:?}: (B, Tq, H, D) and twice (B, Tk, Hk, D), where Hk divides H"
        );
        let [b, tq, h, d] = [0, 1, 2, 3].map(|i| q.dim(i));
        let scale = options.scale.unwrap_or(1.0 / (d as f32).sqrt());
        if d % 4 != 0 {
            // The kernels read columns four at a time. Zeros change no score.
            let wide = |x| self.pad(x, &[(0, 0), (0, 0), (0, 0), (0, 4 - d % 4)]);
            let y = self.attention(wide(q), wide(k), wide(v), Attention { scale: Some(scale), ..options });
            return self.slice(y, 3, 0, d);
        }
        let (tk, hk, width) = (k.dim(1), k.dim(2), d / 4);
        // Products of two matrices of the size of q k^T, for the count of operations.
        let product = 2.0 * (b * h * tq) as f64 * (tk * d) as f64 * if options.causal { 0.5 } else { 1.0 };
        let split = Split::new(width, tuning::attention(self.caps().class));
        let sizes = [b, tq, tk, h, hk, width, options.causal as usize];
        let row_shape = [b, h, tq];
        let call = self.call(split.kernel("attention", 1)).input(q).input(k).input(v);
        let call = call.ints(sizes).float(scale).groups(split.groups(b * h, tq)).flops(2.0 * product);
        let [y, lse] = call.outputs([(q.shape(), DType::F32), (&row_shape, DType::F32)]);

        self.vjp(y, move |g, dy| {
            let split = Split::new(width, tuning::attention_dq(g.caps().class));
            let call = g
                .call(split.kernel("attention_dq", 2).part("attention/dy"))
                .input(q)
                .input(k)
                .input(v)
                .input(dy)
                .input(y)
                .input(lse);
            let call = call.ints(sizes).float(scale).groups(split.groups(b * h, tq)).flops(3.0 * product);
            let [dq, delta] = call.outputs([(q.shape(), DType::F32), (&row_shape, DType::F32)]);
            let dkv = Split::new(width, tuning::attention_dkv(g.caps().class, width));
            let call = g
                .call(dkv.kernel("attention_dkv", 2).part("attention/dy"))
                .input(q)
                .input(k)
                .input(v)
                .input(dy)
                .input(lse)
                .input(delta);
            let call = call.ints(sizes).float(scale).groups(dkv.groups(b * hk, tk)).flops(4.0 * product);
            let [dk, dv] = call.outputs([(k.shape(), DType::F32), (v.shape(), DType::F32)]);
            vec![(q, dq), (k, dk), (v, dv)]
        });
        y
    }

    /// Rotary position embedding (Su et al. 2021) of x (B, T, H, D), as Llama and Hugging Face pair columns: c with c + D / 2.
    /// `cos` and `sin` (T, D / 2) are tables, to which no gradient flows.
    #[track_caller]
    pub fn rope(&self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor {
        assert!(
            x.rank() == 4
                && x.last() % 2 == 0
                && cos.shape() == [x.dim(1), x.last() / 2]
                && sin.shape() == cos.shape(),
            "rope of {x:?} with cos {cos:?} and sin {sin:?}: (B, T, H, D) and twice (T, D / 2)"
        );
        let (cos, sin) = (self.stop_gradient(cos), self.stop_gradient(sin));
        self.rotate(x, cos, sin, 1.0)
    }

    fn rotate(&self, x: Tensor, cos: Tensor, sin: Tensor, sign: f32) -> Tensor {
        let half = x.last() / 2;
        let (ty, lanes) = if half % 4 == 0 { ("vec4f", 4) } else { ("f32", 1) };
        let n = x.len() / 2 / lanes;
        let y = self
            .call(Kernel::new("rope", "main").alias("T", ty))
            .input(x)
            .input(cos)
            .input(sin)
            .ints([n, x.dim(1), x.dim(2), half / lanes])
            .float(sign)
            .threads(n, 64)
            .output(x.shape());
        self.vjp(y, move |g, dy| vec![(x, g.rotate(dy, cos, sin, -sign))]);
        y
    }
}
