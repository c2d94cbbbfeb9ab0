//! Rows of a table by index, and back.

use super::reduce::elements;
use crate::core::{DType, Graph, Kernel, Tensor};

impl Graph {
    /// Row `ids[i]` of `table` (V, C), f32 or f16, for every i: ids U32 (..), each below V -> (.., C) f32. Torch's `embedding`. The
    /// gradient flows to an f32 table.
    #[track_caller]
    pub fn gather_rows(&self, table: Tensor, ids: Tensor) -> Tensor {
        assert!(
            table.rank() == 2 && ids.dtype() == DType::U32 && ids.rank() < 4,
            "gather_rows of {table:?} at {ids:?}: (V, C) and U32 of at most three dimensions"
        );
        let c = table.last();
        let each = if c % 4 == 0 { 4 } else { 1 };
        let kernel = elements(Kernel::new("gather", "main"), c);
        let kernel = match (table.dtype(), each) {
            (DType::F16, 4) => kernel.alias("T", "vec2u").part("gather/f16x4").f16(),
            (DType::F16, _) => kernel.alias("T", "u32").part("gather/f16").f16(),
            _ => kernel.alias("T", "E").part("gather/f32"),
        };
        let n = ids.len() * c / each;
        let shape: Vec<usize> = ids.shape().iter().copied().chain([c]).collect();
        let call = self.call(kernel).input(table).input(ids).ints([n, c / each]);
        let y = call.threads(n, 64).output(&shape);
        self.vjp(y, move |g, dy| match table.dtype() {
            DType::F16 => vec![],
            _ => vec![(table, g.scatter_rows(g.reshape(dy, &[ids.len(), c]), ids, table.dim(0)))],
        });
        y
    }

    /// (rows, C) of zeros, to whose row `ids[i]` row i of `src` (N, C) is added, for every i in order; ids U32 (N), each below
    /// `rows`. The backward of [`Graph::gather_rows`].
    #[track_caller]
    pub fn scatter_rows(&self, src: Tensor, ids: Tensor, rows: usize) -> Tensor {
        assert!(
            src.rank() == 2 && ids.dtype() == DType::U32 && ids.len() == src.dim(0),
            "scatter_rows of {src:?} to {ids:?}: (N, C) and U32 (N)"
        );
        let (n, c) = (src.dim(0), src.last());
        let width = if c % 4 == 0 { c / 4 } else { c };
        let kernel = |entry| elements(Kernel::new("scatter", entry), c);
        let call = self.call(kernel("links")).input(ids).ints([n, rows, width]).threads(n + rows, 64);
        let [links] = call.outputs([(&[n + rows], DType::U32)]);
        let call = self.call(kernel("rows")).input(src).input(links).ints([n, rows, width]);
        let y = call.threads(rows * width, 64).output(&[rows, c]);
        self.vjp(y, move |g, dy| vec![(src, g.reshape(g.gather_rows(dy, ids), src.shape()))]);
        y
    }
    /// Rows (.., T, C) written into `state` (.., L, C) from row `at` on, U32 (1), in place: a cache of keys or values. Rows past
    /// the end are dropped. Returns the new state; no gradient flows through it.
    #[track_caller]
    pub fn write_rows(&self, state: Tensor, rows: Tensor, at: Tensor) -> Tensor {
        let (lead, c) = (state.rank() - 2, state.last());
        assert!(
            state.rank() >= 2
                && rows.rank() == state.rank()
                && rows.shape()[..lead] == state.shape()[..lead]
                && rows.last() == c
                && at.shape() == [1]
                && at.dtype() == DType::U32,
            "write_rows of {rows:?} into {state:?} at {at:?}: (.., T, C), (.., L, C) and U32 (1)"
        );
        let width = if c % 4 == 0 { c / 4 } else { c };
        let n = rows.len() / c * width;
        let call = self.call(elements(Kernel::new("write_rows", "main"), c)).input(rows).input(at);
        call.ints([n, rows.dim(lead), state.dim(lead), width]).threads(n, 64).update(&[state])[0]
    }
}
