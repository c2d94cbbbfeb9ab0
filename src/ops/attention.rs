//! Attention that never stores its scores, and rotary position embedding.

use crate::core::{Class, DType, Graph, Kernel, Tensor};

/// Options of [`Graph::attention`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    /// Factor of the scores; 1 / sqrt(D) by default.
    pub scale: Option<f32>,
    /// Query i sees the keys 0 to i only.
    pub causal: bool,
}

/// How the rows of a head are given to threads: 4 `rows` rows an item, whose columns `parts` threads share, `columns` vectors
/// of four a thread; `items` items in a workgroup. Measured: ARCHITECTURE.md, "Tiles".
struct Split {
    rows: usize,
    columns: usize,
    parts: usize,
    items: usize,
}

impl Split {
    /// For heads of `width` vectors, `rows` and at most `columns` of which fit into the registers of a thread.
    fn new(threads: usize, width: usize, rows: usize, columns: usize) -> Self {
        let parts = width.div_ceil(columns).next_power_of_two();
        Split { rows, columns: width.div_ceil(parts), parts, items: (threads / parts).max(1) }
    }

    /// The kernel of `shaders/FILE.wgsl`, which adds up `sums` blocks of scores for each block of rows.
    fn kernel(&self, file: &'static str, width: usize, sums: usize) -> Kernel {
        let kernel = Kernel::new(file, "main")
            .int("R_i", self.rows)
            .int("R_d", self.columns)
            .int("PARTS", self.parts)
            .int("THREADS", self.items * self.parts)
            .int("SLOTS", sums * self.rows)
            .int("FULL", (self.columns * self.parts == width) as usize)
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
        let d = q.last();
        assert_eq!(d % 4, 0, "heads of {d} columns");
        let scale = options.scale.unwrap_or(1.0 / (d as f32).sqrt());
        let [y, _] = self.attention_forward(q, k, v, scale, options.causal);
        y
    }

    fn attention_forward(&self, q: Tensor, k: Tensor, v: Tensor, scale: f32, causal: bool) -> [Tensor; 2] {
        let [b, tq, h, d] = [0, 1, 2, 3].map(|i| q.dim(i));
        let width = d / 4;
        let split = match self.caps().class {
            Class::Software => Split::new(32, width, 4, 10),
            _ => Split::new(64, width, 1, 4),
        };
        self.call(split.kernel("attention", width, 1))
            .input(q)
            .input(k)
            .input(v)
            .ints([b, tq, k.dim(1), h, k.dim(2), width, causal as usize])
            .float(scale)
            .groups(split.groups(b * h, tq))
            .flops(4.0 * (b * h * tq) as f64 * (k.dim(1) * d) as f64)
            .outputs([(q.shape(), DType::F32), (&[b, h, tq], DType::F32)])
    }
}
