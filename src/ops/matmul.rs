//! Matrix products. Convolutions (`conv.rs`) are the same kernel with other loaders.

use super::Act;
use super::elementwise::padded;
use super::half::stored;
use super::reduce::elements;
use super::tile::Tile;
use super::tuning;
use crate::core::{Call, DType, Graph, Kernel, Source, Tensor};

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

/// A matrix for each entry of a batch, as it lies in a tensor: counted in elements.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub tensor: Tensor,
    /// What is read where it came from: the tensor that it stands for.
    pub of: Option<Tensor>,
    /// Of the first entry.
    pub first: usize,
    /// From a row to the next.
    pub row: usize,
    /// From an entry to the next; 0 where all share one.
    pub step: usize,
    /// From a head to the next, where entries are heads: the step is from the heads of one to those of the next.
    pub head: usize,
}

impl Operand {
    /// The rows of `x`, `rows` an entry.
    pub fn rows(g: &Graph, x: Tensor, rows: usize) -> Operand {
        Operand { head: 0, ..Operand::new(g, x, x.last(), rows) }
    }

    /// The heads of `x` (B, T, H, D).
    pub fn tokens(g: &Graph, x: Tensor) -> Operand {
        Operand::new(g, x, x.dim(2) * x.dim(3), x.dim(1))
    }

    /// Rows of `width` numbers, read in place where they are the rows of taller matrices or the columns of wider ones, and in whole
    /// vectors.
    fn new(g: &Graph, x: Tensor, width: usize, rows: usize) -> Operand {
        let head = x.last();
        let matrices = x.shape().ends_with(&[rows, width]);
        let (tensor, of, first, row) = match g.source(x) {
            Some((Source::Rows { of, first }, made)) if matrices && made.shape() == x.shape() => {
                let step = of.dim(of.rank() - 2) * width;
                return Operand { tensor: of, of: Some(x), first: first * width, row: width, step, head };
            }
            Some((Source::Columns { of, first }, made))
                if made.last() == width && (width % 4 != 0 || (first % 4 == 0 && of.last() % 4 == 0)) =>
            {
                (of, Some(x), first, of.last())
            }
            _ => (x, None, 0, width),
        };
        Operand { tensor, of, first, row, step: rows * row, head }
    }

    /// A tensor whose loader knows where its rows lie.
    pub fn whole(tensor: Tensor) -> Operand {
        Operand { tensor, of: None, first: 0, row: 0, step: 0, head: 0 }
    }

    /// Whether vectors of four may be read: all rows start at multiples of four.
    fn is_vec(&self) -> bool {
        [self.first, self.row, self.step, self.head].iter().all(|n| n % 4 == 0)
    }

    fn params(&self) -> [usize; 4] {
        [self.first, self.row, self.step, self.head]
    }

    fn dtype(&self) -> DType {
        self.tensor.dtype()
    }
}

/// One gemm: everything but the loaders' own numbers.
pub(crate) struct Gemm {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Shape of the stored result.
    pub c_shape: Vec<usize>,
    pub a: Operand,
    pub b: Operand,
    pub load_a: &'static str,
    pub load_b: &'static str,
    /// Entries of the batch that are heads of one: their rows lie side by side in C, and in operands as these say.
    pub heads: usize,
    /// What lies to the right of A, for `a_joined`; there is no residual then.
    pub right: Option<Tensor>,
    /// h, w, c, oh, ow, o, kh, kw, stride, top, left of a convolution.
    pub conv: [usize; 11],
    pub epilogue: Epilogue,
    /// Type of the result.
    pub dtype: DType,
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
        let dtype = if b.dtype() == DType::F16 { DType::F32 } else { a.dtype() };
        self.product(a, b, options, dtype)
    }

    #[track_caller]
    fn product(&self, a: Tensor, b: Tensor, options: Matmul, dtype: DType) -> Tensor {
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
        let [a_rows, b_rows] = [a, b].map(|t| Operand::rows(self, t, t.dim(t.rank() - 2)));
        let joined = self.joined(a).filter(|_| batch_z == 1 && !transpose_a && epilogue.residual.is_none());
        let (a_rows, right) = match joined {
            Some([left, right]) => {
                (Operand { of: Some(a), row: left.last(), ..Operand::whole(left) }, Some(right))
            }
            None => (a_rows, None),
        };
        let product = self.gemm(Gemm {
            batch: batch_z,
            m: m_z,
            n,
            k,
            c_shape: wide[4 - rank..].to_vec(),
            a: Operand { step: if a0 * a1 == 1 || one_b { 0 } else { a_rows.step }, ..a_rows },
            b: Operand { step: if b0 * b1 == 1 { 0 } else { b_rows.step }, ..b_rows },
            load_a: match (transpose_a, right) {
                (true, _) => "gemm/a_transposed",
                (_, None) => "gemm/a_plain",
                (_, Some(_)) => "gemm/a_joined",
            },
            load_b: if transpose_b { "gemm/b_transposed" } else { "gemm/b_plain" },
            heads: 1,
            right,
            dtype,
            conv: [0; 11],
            epilogue,
            macs: None,
        });
        let again = move |g: &Graph, epilogue| g.product(a, b, Matmul { epilogue, ..options }, dtype);
        self.epilogue_vjp(product, epilogue, again, move |g, dz| {
            let with = |transpose_a, transpose_b| Matmul { transpose_a, transpose_b, ..Default::default() };
            let da = match (transpose_a, transpose_b) {
                (false, tb) => g.product(dz, b, with(false, !tb), a.dtype()),
                (true, tb) => g.product(b, dz, with(tb, true), a.dtype()),
            };
            let da = (a, g.sum_to(da, a.shape()));
            // One b for the whole batch: its gradient is one long product instead of a sum of many.
            let (flat_a, flat_dz) = match one_b {
                true => (g.reshape(a, &[batch * m, k]), g.reshape(dz, &[batch * m, n])),
                false => (a, dz),
            };
            let db = match (transpose_a, transpose_b) {
                _ if b.dtype() == DType::F16 => return vec![da],
                (ta, false) => g.product(flat_a, flat_dz, with(!ta, false), DType::F32),
                (ta, true) => g.product(flat_dz, flat_a, with(true, ta), DType::F32),
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
        let options = Matmul { transpose_b: true, epilogue, ..Default::default() };
        let y = self.product(flat, w, options, x.dtype());
        self.reshape(y, &shape)
    }

    /// The two tensors that are the columns of `x` side by side, if ops can read them in vectors of four.
    pub(super) fn joined(&self, x: Tensor) -> Option<[Tensor; 2]> {
        match self.source(x) {
            Some((Source::Joined(both), made))
                if made.last() == x.last() && both.iter().all(|t| t.last() % 4 == 0) =>
            {
                Some(both)
            }
            _ => None,
        }
    }

    /// Records one gemm. K is cut into pieces where the result alone has too few tiles to fill the device.
    pub(crate) fn gemm(&self, call: Gemm) -> Tensor {
        let Gemm { batch, m, n, k, epilogue, a, b, .. } = call;
        let rows_of_k = call.load_a == "gemm/a_plain" && call.load_b == "gemm/b_transposed";
        let whole = a.dtype() == DType::F32 && call.dtype == DType::F32;
        if m <= 4 && call.heads == 1 && rows_of_k && a.is_vec() && b.is_vec() && whole {
            return self.gemv(call);
        }
        let half = a.dtype() == DType::F16 || b.dtype() == DType::F16;
        let tile = Tile::choose(self.caps(), call.conv != [0; 11], half, batch, [m, n, k]);
        // The classes of a strided input gradient have different inner sizes: not cut.
        let splits = match call.load_a == "gemm/a_conv_t" || call.heads > 1 {
            true => 1,
            false => tuning::splits(self.caps().class, tile.groups(m, n) * batch, k),
        };
        let dtype = call.dtype;
        let fours = |t: DType, holds: bool| t != DType::F16 || holds;
        assert!(
            fours(a.dtype(), a.is_vec()) && fours(dtype, n % 4 == 0),
            "product of {:?} and {:?}: f16 rows are multiples of four",
            a.tensor,
            b.tensor
        );
        let residual = epilogue.residual.map_or(dtype, |r| r.dtype());
        assert_eq!(
            residual, dtype,
            "type of what is added to a product of {:?} and {:?}",
            a.tensor, b.tensor
        );
        let tiles = tile.groups(m, n);
        let y_groups = tiles.div_ceil(65_535);
        // Pieces are added up in f32, with the epilogue after them.
        let [own, after] = match splits {
            1 => [epilogue, Epilogue::default()],
            _ => [Epilogue::default(), epilogue],
        };
        let (shape, c_dtype) = match splits {
            1 => (call.c_shape.clone(), dtype),
            _ => (vec![splits, call.c_shape.iter().product()], DType::F32),
        };
        let bias = own.bias.map(|bias| Operand::rows(self, bias, 1));
        // Unused bindings get `a` again: a kernel has one layout, whatever its epilogue.
        let recorded = self
            .call(kernel(&call, tile, own, c_dtype))
            .input(a.tensor)
            .input(b.tensor)
            .input(bias.map_or(a.tensor, |b| b.tensor))
            .input(own.residual.or(call.right).unwrap_or(a.tensor));
        let recorded = [a.of, b.of, own.bias].into_iter().flatten().fold(recorded, Call::of);
        let y = recorded
            .ints([m, n, k, splits, call.heads, bias.is_some() as usize, bias.map_or(0, |b| b.first)])
            .ints(a.params())
            .ints(b.params())
            .ints(call.conv)
            .grid(tiles.div_ceil(y_groups), y_groups, batch * splits)
            .in_pieces()
            .flops(2.0 * call.macs.unwrap_or((batch * m * n) as f64 * k as f64))
            .output_as(&shape, c_dtype);
        if splits == 1 { y } else { self.add_pieces(y, &call, after, dtype) }
    }

    /// act(sum of pieces + bias) + residual: pieces (splits, elements of C), f32.
    fn add_pieces(&self, pieces: Tensor, call: &Gemm, epilogue: Epilogue, dtype: DType) -> Tensor {
        let (n, each) = (call.n, if call.n % 4 == 0 { 4 } else { 1 });
        let bias = epilogue.bias.map(|bias| Operand::rows(self, bias, 1));
        let kernel = Kernel::new("gemm_sum", "main").part(epilogue.act.part());
        let kernel = stored(elements(kernel, n), dtype, n);
        let all = pieces.len() / pieces.dim(0);
        let recorded = self
            .call(kernel)
            .input(pieces)
            .input(bias.map_or(pieces, |b| b.tensor))
            .input(epilogue.residual.unwrap_or(pieces));
        let recorded = epilogue.bias.into_iter().fold(recorded, Call::of);
        recorded
            .ints([all / each, pieces.dim(0), n / each])
            .ints([
                bias.is_some() as usize,
                bias.map_or(0, |b| b.first),
                epilogue.residual.is_some() as usize,
            ])
            .threads(all / each, 64)
            .output_as(&call.c_shape, dtype)
    }

    /// Records a product of few rows: `shaders/gemv.wgsl`.
    fn gemv(&self, call: Gemm) -> Tensor {
        let Gemm { batch, m, n, k, a, b, epilogue, .. } = call;
        let bias = epilogue.bias.map(|bias| Operand::rows(self, bias, 1));
        let lanes = tuning::gemv_lanes(self.caps().class);
        let kernel = Kernel::new("gemv", "main").int("R_i", m).int("LANES", lanes);
        let kernel = kernel.part("gemm/read_a_vec4").alias("TA", "vec4f").part(epilogue.act.part());
        let kernel = match b.dtype() {
            DType::F16 => kernel.part("gemm/read_b_f16x4").alias("TB", "vec2u").f16(),
            _ => kernel.part("gemm/read_b_vec4").alias("TB", "vec4f"),
        };
        let recorded = self
            .call(kernel)
            .input(a.tensor)
            .input(b.tensor)
            .input(bias.map_or(a.tensor, |b| b.tensor))
            .input(epilogue.residual.unwrap_or(a.tensor));
        let recorded = [a.of, b.of, epilogue.bias].into_iter().flatten().fold(recorded, Call::of);
        recorded
            .ints([n, k, batch, bias.is_some() as usize, bias.map_or(0, |b| b.first)])
            .ints([epilogue.residual.is_some() as usize])
            .ints(a.params())
            .ints(b.params())
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

/// The kernel of a gemm with this tile and epilogue, which writes C as `dtype`.
fn kernel(call: &Gemm, tile: Tile, epilogue: Epilogue, dtype: DType) -> Kernel {
    let kernel = tile.kernel(call.load_b == "gemm/b_transposed").part(call.load_a).part(call.load_b);
    let [_, _, c, _, _, o, ..] = call.conv;
    let channels = match call.load_a {
        "gemm/a_conv" => c,
        "gemm/a_conv_t" => o,
        _ => 0,
    };
    let kernel = tile.loaders(kernel, call.load_a, call.k, channels);
    let kernel = match call.load_a {
        "gemm/a_conv" => kernel.int("DOUBLED", call.a.of.is_some() as usize),
        _ => kernel,
    };
    let kernel = match (call.a.dtype(), call.a.is_vec()) {
        (DType::F16, _) => kernel.part("gemm/read_a_f16x4").alias("TA", "vec2u").f16(),
        (_, true) => kernel.part("gemm/read_a_vec4").alias("TA", "vec4f"),
        (_, false) => kernel.part("gemm/read_a_scalar").alias("TA", "f32"),
    };
    let kernel = match (call.b.dtype(), call.b.is_vec()) {
        (DType::F16, true) => kernel.part("gemm/read_b_f16x4").alias("TB", "vec2u").f16(),
        (DType::F16, false) => kernel.part("gemm/read_b_f16").alias("TB", "u32").f16(),
        (_, true) => kernel.part("gemm/read_b_vec4").alias("TB", "vec4f"),
        (_, false) => kernel.part("gemm/read_b_scalar").alias("TB", "f32"),
    };
    let fours = call.n % 4 == 0;
    let kernel = match (dtype, fours) {
        (DType::F16, _) => kernel.part("gemm/c_f16x4").alias("TC", "vec2u").f16(),
        (_, true) => kernel.part("gemm/c_vec4").alias("TC", "vec4f"),
        (_, false) => kernel.part("gemm/c_scalar").alias("TC", "f32"),
    };
    let kernel = match (epilogue.residual.map(|r| r.dtype()), fours) {
        (None, _) => kernel.part("gemm/residual_none"),
        (Some(DType::F16), _) => kernel.part("gemm/residual_f16x4"),
        (_, true) => kernel.part("gemm/residual_vec4"),
        (_, false) => kernel.part("gemm/residual_scalar"),
    };
    kernel.part(epilogue.act.part())
}
