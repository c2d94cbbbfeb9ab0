//! Matrix products. Convolutions (`conv.rs`) are the same kernel with other loaders.

use super::Act;
use super::elementwise::padded;
use super::tile::Tile;
use super::tuning;
use crate::core::{DType, Graph, Kernel, Tensor};

/// What a matrix product or convolution does to its result as it writes it: y = act(product + bias) + residual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue {
    /// One number a column (an output channel).
    pub bias: Option<Tensor>,
    /// Activation, before the residual.
    pub act: Act,
    /// Of the result's shape.
    pub residual: Option<Tensor>,
}

impl Epilogue {
    /// product + bias
    pub fn bias(bias: Tensor) -> Self {
        Epilogue { bias: Some(bias), ..Self::default() }
    }

    /// act(product)
    pub fn act(act: Act) -> Self {
        Epilogue { act, ..Self::default() }
    }

    /// product + residual
    pub fn plus(residual: Tensor) -> Self {
        Epilogue { residual: Some(residual), ..Self::default() }
    }
}

/// Options of [`Graph::matmul_with`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Matmul {
    /// `a` is stored (.., K, M).
    pub transpose_a: bool,
    /// `b` is stored (.., N, K).
    pub transpose_b: bool,
    /// Applied to the result.
    pub epilogue: Epilogue,
}

/// One gemm: everything but the loaders' own numbers.
pub(crate) struct Gemm {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Shape of the stored result.
    pub c_shape: Vec<usize>,
    pub a: Tensor,
    pub b: Tensor,
    pub a_step: usize,
    pub b_step: usize,
    pub load_a: &'static str,
    pub load_b: &'static str,
    /// Vectors of four may be read: rows start at multiples of four.
    pub vec_a: bool,
    pub vec_b: bool,
    /// h, w, c, oh, ow, o, kh, kw, stride, top, left of a convolution.
    pub conv: [usize; 11],
    pub epilogue: Epilogue,
    /// Multiply-adds, where not batch * m * n * k.
    pub macs: Option<f64>,
}

impl Graph {
    /// y = a b, over the last two dimensions: (.., M, K) x (.., K, N) -> (.., M, N). Leading dimensions are equal or one.
    #[track_caller]
    pub fn matmul(&self, a: Tensor, b: Tensor) -> Tensor {
        self.matmul_with(a, b, Matmul::default())
    }

    /// y = act(op(a) op(b) + bias) + residual, where op may transpose the last two dimensions. f16 is allowed for `b`, and for `a`;
    /// y is f16 where only `a` is.
    #[track_caller]
    pub fn matmul_with(&self, a: Tensor, b: Tensor, options: Matmul) -> Tensor {
        assert!(a.rank() >= 2 && b.rank() >= 2, "matmul of {a:?} and {b:?}: at least two dimensions each");
        let Matmul { transpose_a, transpose_b, epilogue } = options;
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (padded(a.shape()), padded(b.shape()));
        let (m, k) = if transpose_a { (a3, a2) } else { (a2, a3) };
        let (n, kb) = if transpose_b { (b2, b3) } else { (b3, b2) };
        assert_eq!(k, kb, "matmul of {a:?} and {b:?} ({options:?}): inner sizes differ");
        let rank = a.rank().max(b.rank());
        let lead = |x: usize, y: usize| {
            assert!(x == y || x == 1 || y == 1, "matmul of {a:?} and {b:?}: leading dimensions differ");
            x.max(y)
        };
        let wide = [lead(a0, b0), lead(a1, b1), m, n];
        let batch = wide[0] * wide[1];
        let whole = |t: Tensor, lead: usize| lead == 1 || t.len() == lead * t.dim(t.rank() - 2) * t.last();
        assert!(
            whole(a, a0 * a1)
                && whole(b, b0 * b1)
                && [1, batch].contains(&(a0 * a1))
                && [1, batch].contains(&(b0 * b1)),
            "matmul of {a:?} and {b:?}: leading dimensions are all equal or all one"
        );

        // A matrix shared by a whole batch is one taller product.
        let one_b = b0 * b1 == 1 && !transpose_a;
        let (batch_z, m_z) = if one_b { (1, batch * m) } else { (batch, m) };
        let product = self.gemm(Gemm {
            batch: batch_z,
            m: m_z,
            n,
            k,
            c_shape: wide[4 - rank..].to_vec(),
            a,
            b,
            a_step: if a0 * a1 == 1 || one_b { 0 } else { m * k },
            b_step: if b0 * b1 == 1 { 0 } else { k * n },
            load_a: if transpose_a { "gemm/a_transposed" } else { "gemm/a_plain" },
            load_b: if transpose_b { "gemm/b_transposed" } else { "gemm/b_plain" },
            vec_a: a.last() % 4 == 0,
            vec_b: b.last() % 4 == 0,
            conv: [0; 11],
            epilogue,
            macs: None,
        });
        let again = move |g: &Graph, epilogue| g.matmul_with(a, b, Matmul { epilogue, ..options });
        self.epilogue_vjp(product, epilogue, again, move |g, dz| {
            let with = |transpose_a, transpose_b| Matmul { transpose_a, transpose_b, ..Default::default() };
            let da = match (transpose_a, transpose_b) {
                (false, tb) => g.matmul_with(dz, b, with(false, !tb)),
                (true, tb) => g.matmul_with(b, dz, with(tb, true)),
            };
            let da = (a, g.sum_to(da, a.shape()));
            // One b for the whole batch: its gradient is one long product instead of a sum of many.
            let (flat_a, flat_dz) = match one_b {
                true => (g.reshape(a, &[batch * m, k]), g.reshape(dz, &[batch * m, n])),
                false => (a, dz),
            };
            let db = match (transpose_a, transpose_b) {
                _ if b.dtype() == DType::F16 => return vec![da],
                (ta, false) => g.matmul_with(flat_a, flat_dz, with(!ta, false)),
                (ta, true) => g.matmul_with(flat_dz, flat_a, with(true, ta)),
            };
            vec![da, (b, g.sum_to(db, b.shape()))]
        });
        product
    }

    /// y = x w^T + bias, with torch's weight (out, in).
    #[track_caller]
    pub fn linear(&self, x: Tensor, w: Tensor, bias: Option<Tensor>) -> Tensor {
        self.linear_with(x, w, Epilogue { bias, ..Epilogue::default() })
    }

    /// y = act(x w^T + bias) + residual, with torch's weight (out, in).
    #[track_caller]
    pub fn linear_with(&self, x: Tensor, w: Tensor, epilogue: Epilogue) -> Tensor {
        assert!(w.rank() == 2 && x.last() == w.dim(1), "linear of {x:?} with weight {w:?}");
        let mut shape = x.shape().to_vec();
        *shape.last_mut().expect("rank is at least one") = w.dim(0);
        let flat = self.reshape(x, &[x.len() / x.last(), x.last()]);
        let residual = epilogue.residual.map(|r| {
            assert_eq!(r.shape(), shape, "residual of a linear layer");
            self.reshape(r, &[flat.dim(0), w.dim(0)])
        });
        let epilogue = Epilogue { residual, ..epilogue };
        let y = self.matmul_with(flat, w, Matmul { transpose_b: true, epilogue, ..Default::default() });
        self.reshape(y, &shape)
    }

    /// Records one gemm. K is cut into pieces where the result alone has too few tiles to fill the device.
    pub(crate) fn gemm(&self, call: Gemm) -> Tensor {
        let Gemm { batch, m, n, k, epilogue, .. } = call;
        let rows_of_k =
            call.load_a == "gemm/a_plain" && call.load_b == "gemm/b_transposed" && call.vec_a && call.vec_b;
        if m <= 4 && rows_of_k && call.a.dtype() == DType::F32 {
            return self.gemv(call);
        }
        let tile = Tile::choose(self.caps(), call.conv != [0; 11], m, n);
        let groups = tile.groups(m, n) * batch;
        let wanted = tuning::gemm_workgroups(self.caps().class);
        let plain = epilogue.bias.is_none() && epilogue.residual.is_none() && epilogue.act == Act::None;
        // The classes of a strided input gradient have different inner sizes: not cut.
        let plain = plain && call.load_a != "gemm/a_conv_t";
        let splits = if plain { (wanted / groups).min(k / 512).max(1) } else { 1 };

        let (a, b) = (call.a, call.b);
        let dtype = match (a.dtype(), b.dtype()) {
            (DType::F16, DType::F32) => DType::F16,
            _ => DType::F32,
        };
        let halves = a.dtype() == DType::F16;
        assert!(
            !halves || (call.vec_a && n % 4 == 0 && epilogue.residual.is_none()),
            "product of {a:?} and {b:?}: f16 rows are multiples of four, and nothing is added to them"
        );
        let kernel = tile.kernel(call.load_b == "gemm/b_transposed").part(call.load_a).part(call.load_b);
        let kernel = match (halves, call.vec_a) {
            (true, _) => kernel.part("gemm/read_a_f16x4").alias("A", "vec2u").f16(),
            (_, true) => kernel.part("gemm/read_a_vec4").alias("A", "vec4f"),
            (_, false) => kernel.part("gemm/read_a_scalar").alias("A", "f32"),
        };
        let kernel = match (b.dtype(), call.vec_b) {
            (DType::F16, true) => kernel.part("gemm/read_b_f16x4").alias("B", "vec2u").f16(),
            (DType::F16, false) => kernel.part("gemm/read_b_f16").alias("B", "u32").f16(),
            (_, true) => kernel.part("gemm/read_b_vec4").alias("B", "vec4f"),
            (_, false) => kernel.part("gemm/read_b_scalar").alias("B", "f32"),
        };
        // Pieces are added up in f32 first.
        let c_dtype = if splits > 1 { DType::F32 } else { dtype };
        let kernel = match (c_dtype, n % 4 == 0) {
            (DType::F16, _) => kernel.part("gemm/c_f16x4").alias("C", "vec2u"),
            (_, true) => kernel.part("gemm/c_vec4").alias("C", "vec4f"),
            (_, false) => kernel.part("gemm/c_scalar").alias("C", "f32"),
        };
        let kernel = match (epilogue.residual, n % 4 == 0) {
            (None, _) => kernel.part("gemm/residual_none"),
            (_, true) => kernel.part("gemm/residual_vec4"),
            (_, false) => kernel.part("gemm/residual_scalar"),
        };
        let shape =
            if splits > 1 { vec![splits, call.c_shape.iter().product()] } else { call.c_shape.clone() };
        let tiles = tile.groups(m, n);
        let y_groups = tiles.div_ceil(65_535);
        // Unused bindings get `a` again: a kernel has one layout, whatever its epilogue.
        let y = self
            .call(kernel.part(epilogue.act.part()))
            .input(a)
            .input(b)
            .input(epilogue.bias.unwrap_or(a))
            .input(epilogue.residual.unwrap_or(a))
            .ints([m, n, k, call.a_step, call.b_step, splits])
            .ints([epilogue.bias.is_some() as usize])
            .ints(call.conv)
            .grid(tiles.div_ceil(y_groups), y_groups, batch * splits)
            .flops(2.0 * call.macs.unwrap_or((batch * m * n) as f64 * k as f64))
            .output_as(&shape, c_dtype);
        if splits > 1 { self.to(self.reshape(self.sum(y, &[0]), &call.c_shape), dtype) } else { y }
    }

    /// Records a product of few rows: `shaders/gemv.wgsl`.
    fn gemv(&self, call: Gemm) -> Tensor {
        let Gemm { batch, m, n, k, a, b, epilogue, .. } = call;
        let lanes = tuning::gemv_lanes(self.caps().class);
        let kernel = Kernel::new("gemv", "main").int("R_i", m).int("LANES", lanes);
        let kernel = kernel.part("gemm/read_a_vec4").alias("A", "vec4f").part(epilogue.act.part());
        let kernel = match b.dtype() {
            DType::F16 => kernel.part("gemm/read_b_f16x4").alias("B", "vec2u").f16(),
            _ => kernel.part("gemm/read_b_vec4").alias("B", "vec4f"),
        };
        let given = [epilogue.bias.is_some() as usize, epilogue.residual.is_some() as usize];
        self.call(kernel)
            .input(a)
            .input(b)
            .input(epilogue.bias.unwrap_or(a))
            .input(epilogue.residual.unwrap_or(a))
            .ints([n, k, call.a_step, call.b_step, batch])
            .ints(given)
            .groups(batch * n.div_ceil(64 / lanes))
            .flops(2.0 * (batch * m * n) as f64 * k as f64)
            .output(&call.c_shape)
    }

    /// The backward of an epilogue around the backward of a bare product, `inner`. The kernel does not keep the activation's
    /// input; `product` recomputes it, so that only a differentiated graph pays for it.
    pub(crate) fn epilogue_vjp(
        &self,
        y: Tensor,
        epilogue: Epilogue,
        product: impl Fn(&Graph, Epilogue) -> Tensor + 'static,
        inner: impl Fn(&Graph, Tensor) -> Vec<(Tensor, Tensor)> + 'static,
    ) {
        self.vjp(y, move |g, dy| {
            let mut grads: Vec<_> = epilogue.residual.map(|r| (r, dy)).into_iter().collect();
            let dz = match epilogue.act {
                Act::None => dy,
                act => {
                    let z = product(g, Epilogue { bias: epilogue.bias, ..Default::default() });
                    g.act_backward(act, z, dy)
                }
            };
            if let Some(bias) = epilogue.bias {
                let rows = g.reshape(dz, &[dz.len() / bias.len(), bias.len()]);
                grads.push((bias, g.sum_to(rows, bias.shape())));
            }
            grads.extend(inner(g, dz));
            grads
        });
    }
}
