//! Attention that never stores its scores, and rotary position embedding.

use super::half::stored;
use super::matmul::{Gemm, Operand};
use super::{Epilogue, Matmul, tuning};
use crate::core::{Call, Coop, DType, Graph, Kernel, Tensor};

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
        let parts = width.div_ceil(tuned.columns);
        let columns = width.div_ceil(parts);
        let full = columns * parts == width;
        Split { rows: tuned.rows, columns, parts, items: (tuned.threads / parts).max(1), full }
    }

    fn kernel(&self, dtype: DType) -> Kernel {
        let kernel = stored(Kernel::new("attention", "main").alias("E", "vec4f"), dtype, 4)
            .int("R_i", self.rows)
            .int("R_d", self.columns)
            .int("PARTS", self.parts)
            .int("THREADS", self.items * self.parts)
            .int("SLOTS", self.rows)
            .int("FULL", self.full as usize)
            .part("attention/heads")
            .part("attention/rows");
        kernel.part(if self.parts == 1 { "attention/whole" } else { "attention/split" })
    }

    /// Workgroups for `heads` heads of `n` rows.
    fn groups(&self, heads: usize, n: usize) -> usize {
        (heads * n.div_ceil(4 * self.rows)).div_ceil(self.items)
    }
}

/// How matrix units share a head: `subgroups` of them have a fragment of queries each, and walk over `KEYS` keys at a time.
struct Units {
    unit: Coop,
    subgroups: usize,
    /// Fragments that a head is wide.
    wide: usize,
}

impl Units {
    /// Keys at a time.
    const KEYS: usize = 32;

    /// For heads of d columns, if they fit into workgroup memory.
    fn new(unit: Coop, d: usize, workgroup_bytes: usize) -> Option<Units> {
        let wide = d.div_ceil(unit.size);
        let fits = |&subgroups: &usize| Units { unit, subgroups, wide }.bytes() <= workgroup_bytes;
        let subgroups = [4, 2].into_iter().find(fits)?;
        Some(Units { unit, subgroups, wide })
    }

    /// Queries of a workgroup.
    fn queries(&self) -> usize {
        self.subgroups * self.unit.size
    }

    /// Of workgroup memory: queries or keys and values, scores, weights.
    fn bytes(&self) -> usize {
        let (queries, wide) = (self.queries(), self.wide * self.unit.size);
        let tile = 2 * queries.max(2 * Units::KEYS) * (wide + 8);
        tile + 4 * (queries * (wide.max(Units::KEYS) + 4) + 16) + 2 * queries * (Units::KEYS + 8)
    }

    fn kernel(&self, dtype: DType) -> Kernel {
        let (size, per_row) = (self.unit.size, self.unit.subgroup / self.unit.size);
        stored(Kernel::new("attention_coop", "main").alias("E", "vec4f"), dtype, 4)
            .enable("f16")
            .enable("wgpu_cooperative_matrix")
            .int("SUBGROUP", self.unit.subgroup)
            .int("SUBGROUPS", self.subgroups)
            .int("R_w", self.wide)
            .int("R_j", Units::KEYS / size)
            .int("R_o", (self.wide * size / 4).div_ceil(per_row))
            .part("attention/heads")
            .part(self.unit.part())
    }

    /// Workgroups for `heads` heads of `n` rows.
    fn groups(&self, heads: usize, n: usize) -> usize {
        heads * n.div_ceil(self.queries())
    }
}

impl Graph {
    /// y = softmax(scale q k^T) v for each head: q (B, Tq, H, D), k and v (B, Tk, Hk, D) -> (B, Tq, H, D). Where Hk is smaller
    /// than H, neighbouring heads of q share one of k and v (grouped-query attention, Ainslie et al. 2023). All are f32 or all f16; scores
    /// are f32.
    ///
    /// Scores are never stored (FlashAttention, Dao et al. 2022), but in the backward pass, and of wide heads: there, of some queries at a
    /// time.
    #[track_caller]
    pub fn attention(&self, q: Tensor, k: Tensor, v: Tensor, options: Attention) -> Tensor {
        assert!(
            q.rank() == 4
                && k.rank() == 4
                && k.shape() == v.shape()
                && q.dim(0) == k.dim(0)
                && q.dim(3) == k.dim(3)
                && q.dim(2) % k.dim(2) == 0
                && q.dtype() == k.dtype()
                && q.dtype() == v.dtype(),
            "attention of q {q:?}, k {k:?}, v {v:?}: (B, Tq, H, D) and twice (B, Tk, Hk, D), where Hk divides H"
        );
        let [b, tq, h, d] = [0, 1, 2, 3].map(|i| q.dim(i));
        let scale = options.scale.unwrap_or(1.0 / (d as f32).sqrt());
        if d % 4 != 0 {
            // The kernels read columns four at a time. Zeros change no score.
            let wide = |x| self.pad(self.heads_to(x, DType::F32), &[(0, 0), (0, 0), (0, 0), (0, 4 - d % 4)]);
            let y = self.attention(wide(q), wide(k), wide(v), Attention { scale: Some(scale), ..options });
            return self.heads_to(self.slice(y, 3, 0, d), q.dtype());
        }
        let (tk, hk, width, dtype) = (k.dim(1), k.dim(2), d / 4, q.dtype());
        let units = self.caps().coop.filter(|_| dtype == DType::F16 && width <= tuning::UNITS_WIDTH);
        let units = units.and_then(|unit| Units::new(unit, d, self.caps().workgroup_bytes));
        let threads = tuning::attention(self.caps(), tq, width).map(|tuned| Split::new(width, tuned));
        let kernel = match (&units, &threads) {
            (Some(units), _) => Some((units.kernel(dtype), units.groups(b * h, tq))),
            (None, Some(split)) => Some((split.kernel(dtype), split.groups(b * h, tq))),
            (None, None) => None,
        };
        let y = match kernel {
            Some((kernel, groups)) => {
                // Two products of the size of q k^T, for the count of operations.
                let share = if options.causal { 0.5 } else { 1.0 };
                let flops = 4.0 * (b * h * tq) as f64 * (tk * d) as f64 * share;
                let places = [q, k, v].map(|x| Operand::tokens(self, x));
                let call = places.iter().fold(self.call(kernel), |call, x| call.input(x.tensor));
                let call = places.iter().filter_map(|x| x.of).fold(call, Call::of);
                let call = call.ints([b, tq, tk, h, hk, width, options.causal as usize]).float(scale);
                let call = places.iter().fold(call, |call, x| call.ints([x.first / 4, x.row / 4]));
                call.groups(groups).in_pieces().flops(flops).output_as(q.shape(), dtype)
            }
            None if h == hk => self.attention_by_products(q, k, v, scale, options.causal.then_some(tq)),
            None => {
                // Queries of heads that share one of k and v become those of one head.
                let [q, k, v] = [q, k, v].map(|x| by_head(self, x, hk));
                let one = |x: Tensor| self.reshape(x, &[b * hk, x.dim(2), 1, d]);
                let causal = options.causal.then_some(tq);
                let y = self.attention_by_products(one(q), one(k), one(v), scale, causal);
                by_token(self, self.reshape(y, q.shape()), tq)
            }
        };
        self.vjp(y, move |g, dy| {
            let grads = ByHead::new(g, q, k, v, scale, options.causal).backward(g, dy);
            [q, k, v].into_iter().zip(grads).collect()
        });
        y
    }

    /// Attention of as many heads of q as of k and v, whose scores are stored, of some queries at a time. Row i sees the keys up to
    /// i mod `causal`. Heads are read and written where they lie.
    fn attention_by_products(
        &self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: f32,
        causal: Option<usize>,
    ) -> Tensor {
        let ([batch, tq, heads, d], tk, dtype) = ([0, 1, 2, 3].map(|i| q.dim(i)), k.dim(1), q.dtype());
        let [q, k, v] = [q, k, v].map(|x| Operand::tokens(self, x));
        let product = |[m, n, k]: [usize; 3], a: Operand, b: Operand, load_b, dtype: DType| {
            self.gemm(Gemm {
                batch: batch * heads,
                m,
                n,
                k,
                c_shape: vec![batch, m, heads, n],
                a,
                b,
                load_a: "gemm/a_plain",
                load_b,
                heads,
                right: None,
                dtype,
                conv: [0; 11],
                epilogue: Epilogue::default(),
                macs: None,
            })
        };
        let at_once = (tuning::SCORES / (batch * heads * tk)).clamp(1, tq);
        let piece = |first: usize| {
            let n = at_once.min(tq - first);
            let rows = Operand { first: q.first + first * q.row, ..q };
            let scores = product([n, tk, d], rows, k, "gemm/b_transposed", DType::F32);
            let scores = match causal {
                Some(tq) => self.add(scores, self.reshape(mask(self, first, [n, tk], tq), &[1, n, 1, tk])),
                None => scores,
            };
            let weights = Operand::tokens(self, self.softmax_of_scaled(scores, scale));
            product([n, d, tk], weights, v, "gemm/b_plain", dtype)
        };
        let pieces: Vec<Tensor> = (0..tq).step_by(at_once).map(piece).collect();
        self.concat(&pieces, 1)
    }

    /// `to` of x (B, T, H, D), whose heads may be no multiple of four wide.
    fn heads_to(&self, x: Tensor, dtype: DType) -> Tensor {
        let flat = self.reshape(x, &[x.dim(0), x.dim(1), x.dim(2) * x.dim(3)]);
        self.reshape(self.to(flat, dtype), x.shape())
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

/// What is added to the scores (n, tk) of rows from `first` on, of heads of tq queries: the lowest number where a query may not look.
fn mask(g: &Graph, first: usize, [n, tk]: [usize; 2], tq: usize) -> Tensor {
    let hidden = |i: usize| if i % tk > (first + i / tk) % tq { f32::MIN } else { 0.0 };
    g.constant(&[n, tk], &(0..n * tk).map(hidden).collect::<Vec<_>>())
}

/// The backward pass of attention: scores are stored, of some queries at a time.
struct ByHead {
    /// Scaled queries (B, Hk, rows, D): those of the heads that share one of k and v lie below one another.
    q: Tensor,
    /// (B, Hk, Tk, D), as `v`.
    k: Tensor,
    v: Tensor,
    scale: f32,
    causal: bool,
    /// Queries of one head.
    tq: usize,
}

impl ByHead {
    fn new(g: &Graph, q: Tensor, k: Tensor, v: Tensor, scale: f32, causal: bool) -> Self {
        let (hk, tq) = (k.dim(2), q.dim(1));
        let [k, v] = [k, v].map(|x| by_head(g, x, hk));
        ByHead { q: by_head(g, g.scale(q, scale), hk), k, v, scale, causal, tq }
    }

    /// First row and number of rows of each piece.
    fn pieces(&self) -> impl Iterator<Item = (usize, usize)> {
        let [b, hk, rows, _] = [0, 1, 2, 3].map(|i| self.q.dim(i));
        let at_once = (tuning::SCORES / (b * hk * self.k.dim(2))).clamp(1, rows);
        (0..rows).step_by(at_once).map(move |first| (first, at_once.min(rows - first)))
    }

    /// softmax(q k^T) of n rows q from `first` on.
    fn weights(&self, g: &Graph, q: Tensor, first: usize) -> Tensor {
        let scores = g.matmul_with(q, self.k, Matmul { transpose_b: true, ..Default::default() });
        g.softmax(match self.causal {
            true => g.add(scores, mask(g, first, [q.dim(2), self.k.dim(2)], self.tq)),
            false => scores,
        })
    }

    /// Gradients of q, k and v: p = softmax(q k^T), dv = p^T dy, ds = p (t - sum p t) with t = dy v^T, dq = ds k, dk = ds^T q.
    fn backward(&self, g: &Graph, dy: Tensor) -> [Tensor; 3] {
        let dy = by_head(g, dy, self.k.dim(1));
        let [transpose_a, transpose_b] = [[true, false], [false, true]]
            .map(|[transpose_a, transpose_b]| Matmul { transpose_a, transpose_b, ..Default::default() });
        let (mut dq, mut dk, mut dv) = (vec![], vec![], vec![]);
        for (first, n) in self.pieces() {
            let [q, dy] = [self.q, dy].map(|x| g.slice(x, 2, first, n));
            let p = self.weights(g, q, first);
            let ds = g.softmax_backward(p, g.matmul_with(dy, self.v, transpose_b));
            dq.push(g.matmul(ds, self.k));
            dk.push(g.matmul_with(ds, q, transpose_a));
            dv.push(g.matmul_with(p, dy, transpose_a));
        }
        let sum =
            |parts: Vec<Tensor>| parts.into_iter().reduce(|a, b| g.add(a, b)).expect("at least one piece");
        [
            by_token(g, g.scale(g.concat(&dq, 2), self.scale), self.tq),
            by_token(g, sum(dk), self.k.dim(2)),
            by_token(g, sum(dv), self.k.dim(2)),
        ]
    }
}

/// (B, T, H, D) -> (B, heads, H / heads * T, D)
fn by_head(g: &Graph, x: Tensor, heads: usize) -> Tensor {
    let [b, t, h, d] = [0, 1, 2, 3].map(|i| x.dim(i));
    g.reshape(g.permute(x, &[0, 2, 1, 3]), &[b, heads, h / heads * t, d])
}

/// The reverse of [`by_head`], for heads of t rows.
fn by_token(g: &Graph, x: Tensor, t: usize) -> Tensor {
    let [b, heads, rows, d] = [0, 1, 2, 3].map(|i| x.dim(i));
    g.permute(g.reshape(x, &[b, heads * rows / t, t, d]), &[0, 2, 1, 3])
}
