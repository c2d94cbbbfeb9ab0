//! Ops that move elements: permute, concat, slice, pad.

use super::elementwise::padded;
use crate::core::{DType, Graph, Kernel, Source, Tensor};

impl Graph {
    /// The dimensions of `x` in another order, as torch's permute: dimension i of the result is dimension `dims[i]` of x.
    #[track_caller]
    pub fn permute(&self, x: Tensor, dims: &[usize]) -> Tensor {
        let mut back = vec![usize::MAX; x.rank()];
        dims.iter().enumerate().filter(|(_, d)| **d < x.rank()).for_each(|(i, &d)| back[d] = i);
        assert!(
            dims.len() == x.rank() && back.iter().all(|&b| b < x.rank()),
            "permute of {x:?} by {dims:?}: each dimension once"
        );
        let mut stride = vec![1; x.rank()];
        (0..x.rank() - 1).rev().for_each(|d| stride[d] = stride[d + 1] * x.dim(d + 1));
        let shape: Vec<usize> = dims.iter().map(|&d| x.dim(d)).collect();
        let strides: Vec<usize> = dims.iter().map(|&d| stride[d]).collect();
        let zeros = vec![0; x.rank()];
        let y = self.copy(x, &shape, &zeros, &zeros, &shape, &strides);
        self.vjp(y, move |g, dy| vec![(x, g.permute(dy, &back))]);
        y
    }

    /// `length` entries of dimension `dim` from `start` on, as torch's narrow.
    #[track_caller]
    pub fn slice(&self, x: Tensor, dim: usize, start: usize, length: usize) -> Tensor {
        assert!(
            dim < x.rank() && start + length <= x.dim(dim),
            "slice of {x:?}: {length} entries of dimension {dim} from {start} on"
        );
        if length == x.dim(dim) {
            return x;
        }
        let rest = x.dim(dim) - start - length;
        let mut shape = x.shape().to_vec();
        shape[dim] = length;
        let mut from = vec![0; x.rank()];
        from[dim] = start;
        let y = self.window(x, &shape, &from, &vec![0; x.rank()]);
        match x.rank() - dim {
            1 => self.note_source(y, Source::Columns { of: x, first: start }),
            2 => self.note_source(y, Source::Rows { of: x, first: start }),
            _ => {}
        }
        self.vjp(y, move |g, dy| {
            let mut by = vec![(0, 0); dy.rank()];
            by[dim] = (start, rest);
            vec![(x, g.pad(dy, &by))]
        });
        y
    }

    /// `x` with zeros around it: `by` has (before, after) for each dimension.
    #[track_caller]
    pub fn pad(&self, x: Tensor, by: &[(usize, usize)]) -> Tensor {
        assert_eq!(by.len(), x.rank(), "pad of {x:?}: a pair for each dimension");
        if by.iter().all(|&b| b == (0, 0)) {
            return x;
        }
        let shape: Vec<usize> = x.shape().iter().zip(by).map(|(&n, b)| b.0 + n + b.1).collect();
        let before: Vec<usize> = by.iter().map(|b| b.0).collect();
        let y = self.window(x, &shape, &vec![0; x.rank()], &before);
        let starts = before.clone();
        self.vjp(y, move |g, dy| {
            let cut = starts.iter().enumerate().filter(|&(d, _)| dy.dim(d) != x.dim(d));
            vec![(x, cut.fold(dy, |t, (d, &start)| g.slice(t, d, start, x.dim(d))))]
        });
        y
    }

    /// The tensors one after the other along `dim`; equal in all other dimensions.
    #[track_caller]
    pub fn concat(&self, xs: &[Tensor], dim: usize) -> Tensor {
        let (first, rest) = xs.split_first().expect("concat of nothing");
        rest.iter().fold(*first, |a, &b| self.concat_two(a, b, dim))
    }

    #[track_caller]
    fn concat_two(&self, a: Tensor, b: Tensor, dim: usize) -> Tensor {
        let fits = a.rank() == b.rank() && (0..a.rank()).all(|d| d == dim || a.dim(d) == b.dim(d));
        assert!(dim < a.rank() && fits, "concat of {a:?} and {b:?} along dimension {dim}");
        let outer: usize = a.shape()[..dim].iter().product();
        let (na, nb) = (a.len() / outer, b.len() / outer);
        let wide = na % 4 == 0 && nb % 4 == 0;
        let each = if wide { 4 } else { 1 };
        let mut shape = a.shape().to_vec();
        shape[dim] += b.dim(dim);
        let n = (a.len() + b.len()) / each;
        assert_eq!(a.dtype(), b.dtype(), "concat of {a:?} and {b:?}");
        let y = self
            .call(moved(Kernel::new("concat", "main"), a.dtype(), wide))
            .input(a)
            .input(b)
            .ints([n, na / each, nb / each])
            .threads(n, 64)
            .output_as(&shape, a.dtype());
        if dim + 1 == a.rank() {
            self.note_source(y, Source::Joined([a, b]));
        }
        self.vjp(y, move |g, dy| {
            vec![(a, g.slice(dy, dim, 0, a.dim(dim))), (b, g.slice(dy, dim, a.dim(dim), b.dim(dim)))]
        });
        y
    }

    /// A box of x's rank, that begins at `start` in x after `before` zeros.
    fn window(&self, x: Tensor, shape: &[usize], start: &[usize], before: &[usize]) -> Tensor {
        let mut strides = vec![1; x.rank()];
        (0..x.rank() - 1).rev().for_each(|d| strides[d] = strides[d + 1] * x.dim(d + 1));
        self.copy(x, shape, start, before, x.shape(), &strides)
    }

    fn copy(
        &self,
        x: Tensor,
        shape: &[usize],
        start: &[usize],
        before: &[usize],
        size: &[usize],
        strides: &[usize],
    ) -> Tensor {
        let zeros_first = |v: &[usize]| {
            let mut wide = [0; 4];
            wide[4 - v.len()..].copy_from_slice(v);
            wide
        };
        let (mut to, mut start, mut before) = (padded(shape), zeros_first(start), zeros_first(before));
        let (mut size, mut strides) = (padded(size), zeros_first(strides));
        // Fours of neighbours, where the last dimension begins and ends at multiples of four on both sides.
        let wide = strides[3] == 1
            && [to[3], start[3], before[3], size[3]].iter().all(|n| n % 4 == 0)
            && strides[..3].iter().all(|n| n % 4 == 0);
        if wide {
            [&mut to, &mut start, &mut before, &mut size].into_iter().for_each(|v| v[3] /= 4);
            strides[..3].iter_mut().for_each(|n| *n /= 4);
        }
        let n: usize = to.iter().product();
        self.call(moved(Kernel::new("copy", "main"), x.dtype(), wide))
            .input(x)
            .ints([n, to[1], to[2], to[3]])
            .ints(start)
            .ints(before)
            .ints(size)
            .ints(strides)
            .threads(n, 64)
            .output_as(shape, x.dtype())
    }
}

/// A kernel that moves numbers of this type, `wide`: four at a time. f16 is only ever moved so.
#[track_caller]
pub(super) fn moved(kernel: Kernel, dtype: DType, wide: bool) -> Kernel {
    match (dtype, wide) {
        (DType::F16, true) => kernel.alias("E", "vec2u").f16(),
        (_, true) => kernel.alias("E", "vec4f"),
        (_, false) => kernel.alias("E", "f32"),
    }
}
