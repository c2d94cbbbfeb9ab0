//! Reductions.

use super::tuning;
use crate::core::{Call, DType, Graph, Kernel, Tensor};

impl Graph {
    /// Sum over `dims`, which stay as dimensions of size one; f32 also of f16.
    #[track_caller]
    pub fn sum(&self, x: Tensor, dims: &[usize]) -> Tensor {
        let y = self.reduce("reduce/sum", x, dims);
        self.vjp(y, move |g, dy| vec![(x, g.to(g.expand(dy, x.shape()), x.dtype()))]);
        y
    }

    /// Mean over `dims`, which stay as dimensions of size one.
    #[track_caller]
    pub fn mean(&self, x: Tensor, dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().map(|&d| x.dim(d)).product();
        self.scale(self.sum(x, dims), 1.0 / n as f32)
    }

    /// Largest element over `dims`, which stay as dimensions of size one: torch's `amax`, whose gradient equal elements share.
    #[track_caller]
    pub fn max(&self, x: Tensor, dims: &[usize]) -> Tensor {
        let y = self.reduce("reduce/max", x, dims);
        let dims = dims.to_vec();
        self.vjp(y, move |g, dy| {
            let is_largest = g.binary("binary/equal", x, y);
            vec![(x, g.mul(is_largest, g.div(dy, g.sum(is_largest, &dims))))]
        });
        y
    }

    /// Index of the (first) largest element of each row of the last dimension, which goes: U32. Rows of up to 2^24 elements.
    #[track_caller]
    pub fn argmax(&self, x: Tensor) -> Tensor {
        let width = x.last();
        assert!(width <= 1 << 24, "argmax of {x:?}: rows of at most 2^24 elements");
        let rows = x.len() / width;
        let shape = if x.rank() == 1 { &[1] } else { &x.shape()[..x.rank() - 1] };
        let call = self.call_rows(Kernel::new("argmax", "main"), rows, width).input(x).ints([rows, width]);
        let [y] = call.outputs([(shape, DType::U32)]);
        y
    }

    /// The `q`-quantile (0 to 1) of each row of the last dimension, which becomes a size of one, between the two nearest elements in
    /// proportion: torch's `quantile`. No gradient. Rows of up to 2^24 elements.
    #[track_caller]
    pub fn quantile(&self, x: Tensor, q: f64) -> Tensor {
        let width = x.last();
        assert!((0.0..=1.0).contains(&q) && width <= 1 << 24, "quantile {q} of {x:?}");
        let place = q * (width - 1) as f64;
        let k = place.floor().min((width - 1) as f64);
        let rows = x.len() / width;
        let mut shape = x.shape().to_vec();
        shape[x.rank() - 1] = 1;
        let call = self.call_rows(Kernel::new("quantile", "main"), rows, width).input(x);
        call.ints([rows, width, k as usize]).float((place - k) as f32).output(&shape)
    }

    /// Reduces runs of neighbouring dimensions, innermost first.
    #[track_caller]
    fn reduce(&self, op: &'static str, x: Tensor, dims: &[usize]) -> Tensor {
        let mut shape = x.shape().to_vec();
        let mut y = x;
        let mut end = x.rank();
        while end > 0 {
            let Some(last) = (0..end).rev().find(|d| dims.contains(d)) else { break };
            let first = (0..=last).rev().take_while(|d| dims.contains(d)).last().unwrap_or(last);
            let outer: usize = shape[..first].iter().product();
            let r: usize = shape[first..=last].iter().product();
            let inner: usize = shape[last + 1..].iter().product();
            y = self.reduce_middle(op, y, [outer, r, inner]);
            shape[first..=last].fill(1);
            end = first;
        }
        self.reshape(y, &shape)
    }

    /// (outer, r, inner) -> (outer, 1, inner). Long columns are cut into pieces first, so that there is work for all threads.
    fn reduce_middle(&self, op: &'static str, x: Tensor, [outer, r, inner]: [usize; 3]) -> Tensor {
        let rows = inner == 1;
        let piece = match outer * inner {
            _ if r <= 256 => r,
            n if rows && n < 256 => 1024.max(r.div_ceil(256)).min(r),
            n if !rows && n < 4096 => r.div_ceil((4096 / n).min(r.div_ceil(64))),
            _ => r,
        };
        let pieces = r.div_ceil(piece);
        let kernel = Kernel::new("reduce", if rows { "rows" } else { "cols" }).part(op);
        let kernel = match x.dtype() {
            DType::F16 => kernel.alias("X", "u32").part("reduce/f16").f16(),
            _ => kernel.alias("X", "f32").part("reduce/f32"),
        };
        let call = self.call(kernel).input(x).ints([outer, r, inner, piece]).flops(x.len() as f64);
        let shape = [outer, pieces, inner];
        let y = if rows { call.groups(outer * pieces) } else { call.threads(outer * pieces * inner, 64) }
            .output(&shape);
        if pieces == 1 { y } else { self.reduce_middle(op, y, shape) }
    }

    /// Records a kernel that works on whole rows of `width` numbers, with a part in rows/: on a GPU a workgroup has one row, on
    /// a CPU driver a thread does.
    pub(crate) fn call_rows(&self, kernel: Kernel, rows: usize, width: usize) -> Call<'_> {
        let (threads, share) = tuning::rows(self.caps().class, width);
        let kernel = kernel.int("THREADS", threads);
        match share {
            true => self.call(kernel.part("rows/group")).groups(rows),
            false => self.call(kernel.part("rows/thread")).threads(rows, threads),
        }
    }
}

/// The kernel with the part in element/ that fits rows of `width` numbers.
pub(crate) fn elements(kernel: Kernel, width: usize) -> Kernel {
    match width % 4 {
        0 => kernel.alias("E", "vec4f").part("element/vec4"),
        _ => kernel.alias("E", "f32").part("element/scalar"),
    }
}
