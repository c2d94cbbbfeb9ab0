//! Ops on each element: arithmetic with broadcasting. Activations: act.rs.

use super::half::stored;
use super::reduce::elements;
use crate::core::{DType, Graph, Kernel, Tensor};

impl Graph {
    /// y = a gelu(b), where a and b are the halves of the last dimension of x: the GEGLU (Shazeer 2020) of diffusers.
    #[track_caller]
    pub fn geglu(&self, x: Tensor) -> Tensor {
        assert!(x.last() % 2 == 0, "geglu of {x:?}: the last dimension has two halves");
        let half = x.last() / 2;
        let mut shape = x.shape().to_vec();
        shape[x.rank() - 1] = half;
        let each = if half % 4 == 0 { 4 } else { 1 };
        let n = x.len() / 2 / each;
        let dtype = x.dtype();
        let kernel =
            move |entry| stored(elements(Kernel::new("geglu", entry), half).part("act/gelu"), dtype, half);
        let call = self.call(kernel("forward")).input(x).ints([n, half / each]).threads(n, 64);
        let y = call.output_as(&shape, dtype);
        self.vjp(y, move |g, dy| {
            let call = g.call(kernel("backward")).input(x).input(dy).ints([n, half / each]);
            vec![(x, call.threads(n, 64).output_as(x.shape(), dtype))]
        });
        y
    }

    /// y = factor x
    pub fn scale(&self, x: Tensor, factor: f32) -> Tensor {
        self.affine(x, factor, 0.0)
    }

    /// y = x + shift
    pub fn add_scalar(&self, x: Tensor, shift: f32) -> Tensor {
        self.affine(x, 1.0, shift)
    }

    fn affine(&self, x: Tensor, scale: f32, shift: f32) -> Tensor {
        let call = self.call(fours("affine", "main", x.dtype())).input(x);
        let call = call.ints([x.len()]).float(scale).float(shift);
        let y = call.threads(x.len().div_ceil(4), 64).output_as(x.shape(), x.dtype());
        self.vjp(y, move |g, dy| vec![(x, g.scale(dy, scale))]);
        y
    }

    /// y = a + b, with numpy's broadcasting.
    #[track_caller]
    pub fn add(&self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.binary("binary/add", a, b);
        self.vjp(y, move |g, dy| vec![(a, g.sum_to(dy, a.shape())), (b, g.sum_to(dy, b.shape()))]);
        y
    }

    /// y = a - b, with numpy's broadcasting.
    #[track_caller]
    pub fn sub(&self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.binary("binary/sub", a, b);
        self.vjp(y, move |g, dy| {
            vec![(a, g.sum_to(dy, a.shape())), (b, g.scale(g.sum_to(dy, b.shape()), -1.0))]
        });
        y
    }

    /// y = a b, with numpy's broadcasting.
    #[track_caller]
    pub fn mul(&self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.binary("binary/mul", a, b);
        self.vjp(y, move |g, dy| {
            vec![(a, g.sum_to(g.mul(dy, b), a.shape())), (b, g.sum_to(g.mul(dy, a), b.shape()))]
        });
        y
    }

    /// y = a / b, with numpy's broadcasting.
    #[track_caller]
    pub fn div(&self, a: Tensor, b: Tensor) -> Tensor {
        let y = self.binary("binary/div", a, b);
        self.vjp(y, move |g, dy| {
            let da = g.div(dy, b);
            vec![(a, g.sum_to(da, a.shape())), (b, g.scale(g.sum_to(g.mul(da, y), b.shape()), -1.0))]
        });
        y
    }

    /// 1 where a < b, else 0, with numpy's broadcasting. No gradient: it is a step.
    #[track_caller]
    pub fn less(&self, a: Tensor, b: Tensor) -> Tensor {
        self.binary("binary/less", a, b)
    }

    /// `x` repeated to `shape`, as numpy broadcasts.
    #[track_caller]
    pub fn expand(&self, x: Tensor, shape: &[usize]) -> Tensor {
        if x.shape() == shape {
            return x;
        }
        let (from, to) = (padded(x.shape()), padded(shape));
        assert!((0..4).all(|i| from[i] == to[i] || from[i] == 1), "cannot expand {x:?} to {shape:?}");
        let y = self.elementwise("binary/first", x, x, shape);
        self.vjp(y, move |g, dy| vec![(x, g.sum_to(dy, x.shape()))]);
        y
    }

    /// op(a, b), with numpy's broadcasting and no backward yet.
    #[track_caller]
    pub(crate) fn binary(&self, op: &'static str, a: Tensor, b: Tensor) -> Tensor {
        let rank = a.rank().max(b.rank());
        let size = |t: Tensor, i: usize| if i + t.rank() < rank { 1 } else { t.dim(i + t.rank() - rank) };
        let shape: Vec<usize> = (0..rank)
            .map(|i| match (size(a, i), size(b, i)) {
                (m, n) if m == n || n == 1 => m,
                (1, n) => n,
                _ => panic!("{op} of {a:?} and {b:?}: shapes do not broadcast"),
            })
            .collect();
        self.elementwise(op, a, b, &shape)
    }

    fn elementwise(&self, op: &'static str, a: Tensor, b: Tensor, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        if a.len() == n && b.len() == n {
            assert_eq!(a.dtype(), b.dtype(), "{op} of {a:?} and {b:?}");
            let call = self.call(fours("binary", "same", a.dtype()).part(op)).input(a).input(b);
            let [n1, n2, n3] = [0; 3];
            return call.ints([n, n1, n2, n3]).threads(n.div_ceil(4), 64).output_as(shape, a.dtype());
        }
        let [_, n1, n2, n3] = padded(shape);
        let (entry, each) = if n3 % 4 == 0 { ("broadcast4", 4) } else { ("broadcast", 1) };
        self.call(fours("binary", entry, DType::F32).part(op))
            .input(a)
            .input(b)
            .ints([n, n1, n2, n3])
            .ints(broadcast_strides(a.shape()))
            .ints(broadcast_strides(b.shape()))
            .threads(n / each, 64)
            .output(shape)
    }

    /// Undoes a broadcast: adds up `x` over the dimensions in which `shape` is smaller.
    pub(crate) fn sum_to(&self, x: Tensor, shape: &[usize]) -> Tensor {
        let wide = padded(shape);
        let from = 4 - x.rank();
        let dims: Vec<usize> = (0..x.rank()).filter(|&i| wide[from + i] == 1 && x.dim(i) != 1).collect();
        let y = if dims.is_empty() { x } else { self.sum(x, &dims) };
        self.reshape(y, shape)
    }
}

/// A kernel that takes four numbers of a tensor of this type to a thread.
pub(super) fn fours(file: &'static str, entry: &'static str, dtype: DType) -> Kernel {
    stored(Kernel::new(file, entry).alias("E", "vec4f"), dtype, 4)
}

/// A shape as four sizes, ones in front.
pub(crate) fn padded(shape: &[usize]) -> [usize; 4] {
    let mut wide = [1; 4];
    wide[4 - shape.len()..].copy_from_slice(shape);
    wide
}

/// Row-major strides of a shape widened to rank 4; 0 where it repeats.
fn broadcast_strides(shape: &[usize]) -> [usize; 4] {
    let wide = padded(shape);
    let mut strides = [0; 4];
    let mut step = 1;
    for i in (0..4).rev() {
        strides[i] = if wide[i] == 1 { 0 } else { step };
        step *= wide[i];
    }
    strides
}
