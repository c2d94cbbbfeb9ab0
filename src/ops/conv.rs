//! Convolutions as implicit matrix products: the gemm kernel with loaders that find the pixel under a tap. No im2col buffer, no
//! atomics; both gradients are gemms too.

use super::matmul::{Gemm, Operand};
use super::{Act, Epilogue};
use crate::core::{DType, Graph, Source, Tensor};

/// Options of [`Graph::conv2d`].
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one output to the next, in both directions.
    pub stride: usize,
    /// Zeros around the input: above, below, left, right.
    pub padding: [usize; 4],
    /// Applied to the result.
    pub epilogue: Epilogue,
}

impl Conv {
    /// A square kernel of odd size that keeps the size of the image: stride 1, padding kernel / 2.
    pub fn same(kernel: usize) -> Self {
        Self::strided(kernel, 1)
    }

    /// A square kernel and a stride; padding kernel / 2 on all sides.
    pub fn strided(kernel: usize, stride: usize) -> Self {
        let (kernel, padding) = ([kernel; 2], [kernel / 2; 4]);
        Conv { kernel, stride, padding, epilogue: Epilogue::default() }
    }

    /// With other zeros around the input: above, below, left, right.
    pub fn padded(self, padding: [usize; 4]) -> Self {
        Conv { padding, ..self }
    }

    /// With a bias (out).
    pub fn bias(self, bias: Tensor) -> Self {
        Conv { epilogue: Epilogue { bias: Some(bias), ..self.epilogue }, ..self }
    }

    /// With an activation.
    pub fn act(self, act: Act) -> Self {
        Conv { epilogue: Epilogue { act, ..self.epilogue }, ..self }
    }

    /// Plus a residual of the result's shape.
    pub fn plus(self, residual: Tensor) -> Self {
        Conv { epilogue: Epilogue { residual: Some(residual), ..self.epilogue }, ..self }
    }
}

/// Sizes of one convolution.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    oh: usize,
    ow: usize,
    o: usize,
    kh: usize,
    kw: usize,
    stride: usize,
    top: usize,
    left: usize,
}

impl Sizes {
    fn params(&self) -> [usize; 11] {
        [self.h, self.w, self.c, self.oh, self.ow, self.o, self.kh, self.kw, self.stride, self.top, self.left]
    }

    fn macs(&self) -> f64 {
        (self.n * self.oh * self.ow) as f64 * (self.o * self.kh * self.kw * self.c) as f64
    }

    fn x(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c]
    }

    fn y(&self) -> [usize; 4] {
        [self.n, self.oh, self.ow, self.o]
    }

    fn weight(&self) -> [usize; 4] {
        [self.o, self.kh, self.kw, self.c]
    }
}

impl Graph {
    /// y = act(conv(x, w) + bias) + residual: x (N, H, W, C), w (O, KH, KW, C) -> y (N, OH, OW, O). Torch's conv2d without groups
    /// and dilation. f16 is allowed for `w`, and for `x`: then y is f16 too.
    #[track_caller]
    pub fn conv2d(&self, x: Tensor, w: Tensor, conv: Conv) -> Tensor {
        assert!(
            x.rank() == 4 && w.rank() == 4 && x.dim(3) == w.dim(3) && conv.stride > 0,
            "conv2d of {x:?} with weight {w:?}: (N, H, W, C) and (O, KH, KW, C)"
        );
        let (&[n, h, wide, c], &[o, kh, kw, _]) = (x.shape(), w.shape()) else { unreachable!("rank 4") };
        assert_eq!([kh, kw], conv.kernel, "conv2d of {x:?} with weight {w:?}: the kernel of {conv:?}");
        let [top, bottom, left, right] = conv.padding;
        assert!(
            h + top + bottom >= kh && wide + left + right >= kw,
            "conv2d of {x:?} with weight {w:?}: the kernel is larger than the padded image"
        );
        if kh * kw == 1 && conv.stride == 1 && conv.padding == [0; 4] {
            return self.linear_with(x, self.reshape(w, &[o, c]), conv.epilogue);
        }
        if c % 4 != 0 || o % 4 != 0 {
            return self.conv2d_filled(x, w, conv);
        }
        let (oh, ow) =
            ((h + top + bottom - kh) / conv.stride + 1, (wide + left + right - kw) / conv.stride + 1);
        let s = Sizes { n, h, w: wide, c, oh, ow, o, kh, kw, stride: conv.stride, top, left };
        if let Some(r) = conv.epilogue.residual {
            assert_eq!(r.shape(), s.y(), "residual of conv2d");
        }
        let y = self.conv2d_y(x, w, s, conv.epilogue);
        let again = move |g: &Graph, epilogue| g.conv2d_y(x, w, s, epilogue);
        self.epilogue_vjp(y, conv.epilogue, again, move |g, dz| {
            vec![(x, g.conv2d_dx(dz, w, s)), (w, g.conv2d_dw(x, dz, s))]
        });
        y
    }

    /// Channels filled up with zeros to multiples of four, so that kernels always read vectors: images of three channels.
    fn conv2d_filled(&self, x: Tensor, w: Tensor, conv: Conv) -> Tensor {
        let up = |n: usize| n.next_multiple_of(4) - n;
        let (c, o) = (up(x.dim(3)), up(w.dim(0)));
        let last = |t: Tensor, more: usize| {
            let mut by = vec![(0, 0); t.rank()];
            by[t.rank() - 1].1 = more;
            self.pad(t, &by)
        };
        let epilogue = Epilogue {
            bias: conv.epilogue.bias.map(|b| last(b, o)),
            residual: conv.epilogue.residual.map(|r| last(r, o)),
            ..conv.epilogue
        };
        let w_filled = self.pad(w, &[(0, o), (0, 0), (0, 0), (0, c)]);
        let y = self.conv2d(last(x, c), w_filled, Conv { epilogue, ..conv });
        // f16 is for rows of a multiple of four.
        let y = if w.dim(0) % 4 == 0 { y } else { self.to(y, DType::F32) };
        self.slice(y, 3, 0, w.dim(0))
    }

    fn conv2d_y(&self, x: Tensor, w: Tensor, s: Sizes, epilogue: Epilogue) -> Tensor {
        let a = match self.source(x) {
            Some((Source::Doubled(half), made)) if made.shape() == x.shape() => {
                Operand { of: Some(x), ..Operand::whole(half) }
            }
            _ => Operand::whole(x),
        };
        self.gemm(Gemm {
            batch: 1,
            m: s.n * s.oh * s.ow,
            n: s.o,
            k: s.kh * s.kw * s.c,
            c_shape: s.y().to_vec(),
            a,
            b: Operand { row: s.kh * s.kw * s.c, ..Operand::whole(w) },
            load_a: "gemm/a_conv",
            load_b: "gemm/b_transposed",
            heads: 1,
            right: None,
            conv: s.params(),
            epilogue,
            dtype: x.dtype(),
            macs: None,
        })
    }

    /// The gradient with respect to x. Linear in dy and w, so its own gradients are convolutions.
    fn conv2d_dx(&self, dy: Tensor, w: Tensor, s: Sizes) -> Tensor {
        let dx = self.gemm(Gemm {
            batch: s.stride * s.stride,
            m: s.n * s.h.div_ceil(s.stride) * s.w.div_ceil(s.stride),
            n: s.c,
            k: s.kh * s.kw * s.o,
            c_shape: s.x().to_vec(),
            a: Operand::whole(dy),
            b: Operand::whole(w),
            load_a: "gemm/a_conv_t",
            load_b: "gemm/b_conv",
            heads: 1,
            right: None,
            conv: s.params(),
            epilogue: Epilogue::default(),
            dtype: dy.dtype(),
            macs: Some(s.macs()),
        });
        self.vjp(dx, move |g, u| {
            vec![(dy, g.conv2d_y(u, w, s, Epilogue::default())), (w, g.conv2d_dw(u, dy, s))]
        });
        dx
    }

    /// The gradient with respect to w.
    fn conv2d_dw(&self, x: Tensor, dy: Tensor, s: Sizes) -> Tensor {
        let dw = self.gemm(Gemm {
            batch: 1,
            m: s.o,
            n: s.kh * s.kw * s.c,
            k: s.n * s.oh * s.ow,
            c_shape: s.weight().to_vec(),
            a: Operand { row: s.o, ..Operand::whole(dy) },
            b: Operand::whole(x),
            load_a: "gemm/a_transposed",
            load_b: "gemm/b_conv_w",
            heads: 1,
            right: None,
            conv: s.params(),
            epilogue: Epilogue::default(),
            dtype: DType::F32,
            macs: None,
        });
        self.vjp(dw, move |g, u| {
            vec![(x, g.conv2d_dx(dy, u, s)), (dy, g.conv2d_y(x, u, s, Epilogue::default()))]
        });
        dw
    }
}
