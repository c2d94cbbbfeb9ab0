//! Layer, group, RMS and batch normalisation.

use super::Act;
use super::half::stored;
use super::reduce::elements;
use super::tuning;
use crate::core::{Call, DType, Graph, Kernel, Tensor};

/// What [`Graph::batch_norm`] returns.
#[derive(Clone, Copy, Debug)]
pub struct Normalised {
    /// The normalised tensor.
    pub y: Tensor,
    /// Mean of each channel in each group of the batch (groups, C), for a running average. It has no backward.
    pub mean: Tensor,
    /// Variance of each channel in each group of the batch (groups, C), biased: divided by the count. It has no backward.
    pub var: Tensor,
}

/// A tensor seen as (n, l, groups * width): statistics are over l and the width of a group.
#[derive(Clone, Copy)]
struct Groups {
    n: usize,
    l: usize,
    groups: usize,
    width: usize,
}

/// A pass over columns: its entry of group_norm.wgsl, and the rows of a column that a thread has.
#[derive(Clone, Copy)]
struct Pass {
    entry: &'static str,
    act: Act,
    piece: usize,
    eps: f32,
}

/// The affine map and activation after normalising.
#[derive(Clone, Copy)]
struct After {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f32,
    act: Act,
}

impl Graph {
    /// Each row of the last dimension to mean 0 and variance 1, then times `weight` (C) plus `bias` (C): torch's `layer_norm`.
    #[track_caller]
    pub fn layer_norm(&self, x: Tensor, weight: Option<Tensor>, bias: Option<Tensor>, eps: f32) -> Tensor {
        self.normalise_rows(x, true, After { weight, bias, eps, act: Act::None })
    }

    /// x / sqrt(mean(x^2) + eps) over the last dimension, times `weight` (C): torch's `rms_norm`.
    #[track_caller]
    pub fn rms_norm(&self, x: Tensor, weight: Tensor, eps: f32) -> Tensor {
        self.normalise_rows(x, false, After { weight: Some(weight), bias: None, eps, act: Act::None })
    }

    /// Each sample's group of neighbouring channels to mean 0 and variance 1, then act(x^ weight + bias): torch's `group_norm` of
    /// x (N, H, W, C) or (B, T, C), with an activation written by the same kernel.
    #[track_caller]
    pub fn group_norm(
        &self,
        x: Tensor,
        groups: usize,
        weight: Tensor,
        bias: Tensor,
        eps: f32,
        act: Act,
    ) -> Tensor {
        let (n, c) = (x.dim(0), x.last());
        assert!(x.rank() >= 2 && c % groups == 0, "group_norm of {x:?} in {groups} groups");
        let shape = Groups { n, l: x.len() / n / c, groups, width: c / groups };
        let stats = self.column_stats(x, shape);
        let after = After { weight: Some(weight), bias: Some(bias), eps, act };
        self.normalise_columns(x, shape, stats, after, false)
    }

    /// Each channel to mean 0 and variance 1, then times `weight` plus `bias`: torch's `batch_norm` in training, of x (N, .., C). The batch
    /// is split in `groups` equal groups, each normalised by its own statistics, through which the gradient flows as well.
    ///
    /// Unlike [`Graph::group_norm`] it takes no activation: in f16 the derivative would be taken before rounding, and others' results
    /// would change.
    #[track_caller]
    pub fn batch_norm(&self, x: Tensor, weight: Tensor, bias: Tensor, eps: f32, groups: usize) -> Normalised {
        let c = x.last();
        assert!(x.dim(0) % groups == 0, "batch_norm of {x:?} in {groups} equal groups");
        let shape = Groups { n: groups, l: x.len() / c / groups, groups: c, width: 1 };
        let stats = self.column_stats(x, shape);
        let after = After { weight: Some(weight), bias: Some(bias), eps, act: Act::None };
        let y = self.normalise_columns(x, shape, stats, after, false);
        let [mean, var] = [0, 1].map(|i| self.reshape(self.slice(stats, 1, i, 1), &[groups, c]));
        Normalised { y, mean, var }
    }

    /// [`Graph::batch_norm`] with given statistics (C): torch's in evaluation. Gradients flow to x, weight and bias.
    #[track_caller]
    pub fn batch_norm_frozen(
        &self,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f32,
    ) -> Tensor {
        let c = x.last();
        assert!(mean.shape() == [c] && var.shape() == [c], "batch_norm_frozen of {x:?}: {mean:?}, {var:?}");
        let shape = Groups { n: 1, l: x.len() / c, groups: c, width: 1 };
        let stats = self.reshape(self.stop_gradient(self.concat(&[mean, var], 0)), &[1, 2, c]);
        let after = After { weight: Some(weight), bias: Some(bias), eps, act: Act::None };
        self.normalise_columns(x, shape, stats, after, true)
    }

    #[track_caller]
    fn normalise_rows(&self, x: Tensor, centered: bool, after: After) -> Tensor {
        let After { weight, bias, eps, .. } = after;
        let c = x.last();
        for t in weight.iter().chain(&bias) {
            assert_eq!(t.shape(), [c], "weight or bias of the normalisation of {x:?}");
        }
        let rows = x.len() / c;
        let dtype = x.dtype();
        let kernel = move |entry| {
            let kernel = Kernel::new("layer_norm", entry).int("CENTERED", centered as usize);
            stored(elements(kernel, c), dtype, c)
        };
        let width = if c % 4 == 0 { c / 4 } else { c };
        let ints = [rows, width, weight.is_some() as usize, bias.is_some() as usize];
        // Where there is no weight or bias, x holds its binding.
        let (w, b) = (weight.unwrap_or(x), bias.unwrap_or(x));
        let call =
            self.call_rows(kernel("forward"), rows, c).input(x).input(w).input(b).ints(ints).float(eps);
        let [y, stats] = call.outputs([(x.shape(), dtype), (&[rows, 2], DType::F32)]);

        let inputs: Vec<Tensor> = [x].into_iter().chain(weight).chain(bias).collect();
        let shape = Groups { n: rows, l: 1, groups: 1, width: c };
        let composed =
            move |g: &Graph, inputs: &[Tensor]| g.norm_composed(inputs, shape, centered, None, after);
        self.vjp_fused(y, &inputs, composed, move |g, dy| {
            let call = g.call_rows(kernel("backward"), rows, c).input(x).input(dy).input(w).input(stats);
            let dx = call.ints(ints).float(eps).output_as(x.shape(), dtype);
            let sums = Groups { n: 1, l: rows, groups: 1, width: c };
            let piece = g.piece(sums);
            let pass = Pass { entry: "row_sums", act: Act::None, piece, eps };
            let call = g.call_columns(pass, sums, x, None).input(dy).input(stats);
            let parts = [rows.div_ceil(piece), c];
            let [sum, dot] = call.outputs([(&parts, DType::F32), (&parts, DType::F32)]);
            let dw = weight.map(|_| g.sum_parts(dot, c));
            let db = bias.map(|_| g.sum_parts(sum, c));
            [dx].into_iter().chain(dw).chain(db).collect()
        });
        y
    }

    /// Mean and variance (n, 2, c) of the groups, repeated for each of their channels.
    fn column_stats(&self, x: Tensor, s: Groups) -> Tensor {
        let piece = self.piece(s);
        let parts = [s.n, s.l.div_ceil(piece), s.groups * s.width];
        let pass = Pass { entry: "moments", act: Act::None, piece, eps: 0.0 };
        let call = self.call_columns(pass, s, x, self.joined(x));
        let [mean, squares] = call.outputs([(&parts, DType::F32), (&parts, DType::F32)]);
        let rows = s.n * s.groups;
        self.call_rows(Kernel::new("group_stats", "combine"), rows, parts[1] * s.width)
            .input(mean)
            .input(squares)
            .ints([rows, s.groups, s.width, s.l, piece])
            .output(&[s.n, 2, parts[2]])
    }

    /// act(x^ weight + bias) with statistics (n, 2, c), which `frozen` makes constants.
    #[track_caller]
    fn normalise_columns(&self, x: Tensor, s: Groups, stats: Tensor, after: After, frozen: bool) -> Tensor {
        let c = s.groups * s.width;
        let After { weight: Some(weight), bias: Some(bias), eps, act } = after else { unreachable!() };
        assert!(
            weight.shape() == [c] && bias.shape() == [c],
            "weight {weight:?} and bias {bias:?} of the normalisation of {x:?}"
        );
        let each = tuning::norm_rows(self.caps().class).min(s.l);
        let pass = move |entry, piece| Pass { entry, act, piece, eps };
        let call = self.call_columns(pass("apply", each), s, x, self.joined(x));
        let y = call.input(stats).input(weight).input(bias).output_as(x.shape(), x.dtype());
        let composed = move |g: &Graph, inputs: &[Tensor]| {
            g.norm_composed(inputs, s, true, frozen.then_some(stats), after)
        };
        self.vjp_fused(y, &[x, weight, bias], composed, move |g, dy| {
            let piece = g.piece(s);
            let parts = [s.n, s.l.div_ceil(piece), c];
            let call =
                |pass| g.call_columns(pass, s, x, None).input(stats).input(weight).input(bias).input(dy);
            let [sum, dot] = call(pass("sums", piece)).outputs([(&parts, DType::F32), (&parts, DType::F32)]);
            let means = match frozen {
                true => g.constant(&[1, 2, c], &vec![0.0; 2 * c]),
                false => g
                    .call_rows(
                        Kernel::new("group_stats", "combine_backward"),
                        s.n * s.groups,
                        s.width * parts[1],
                    )
                    .input(sum)
                    .input(dot)
                    .input(weight)
                    .ints([s.n * s.groups, s.groups, s.width, s.l, piece])
                    .output(&[s.n, 2, c]),
            };
            let dx = call(pass("apply_backward", each)).input(means).output_as(x.shape(), x.dtype());
            vec![dx, g.sum_parts(dot, c), g.sum_parts(sum, c)]
        });
        y
    }

    /// Records a pass of group_norm.wgsl over `x`, or over the two tensors that are its columns side by side.
    fn call_columns(&self, pass: Pass, s: Groups, x: Tensor, joined: Option<[Tensor; 2]>) -> Call<'_> {
        let c = s.groups * s.width;
        let each = if c % 4 == 0 { 4 } else { 1 };
        let kernel =
            elements(Kernel::new("group_norm", pass.entry), c).int("JOINED", joined.is_some() as usize);
        let threads = s.n * s.l.div_ceil(pass.piece) * (c / each);
        let [left, right] = joined.unwrap_or([x; 2]);
        self.call(stored(kernel, x.dtype(), c).part(pass.act.part()))
            .input(left)
            .input(right)
            .of(x)
            .ints([s.n, s.l, c / each, pass.piece, left.last() / each])
            .float(pass.eps)
            .threads(threads, 64)
    }

    /// Rows of a column that one thread adds up, so that there is work for all threads.
    fn piece(&self, s: Groups) -> usize {
        let wanted = tuning::norm_threads(self.caps().class);
        let columns = (s.n * s.groups * s.width).div_ceil(4);
        s.l.div_ceil((wanted / columns).min(s.l / 16).max(1))
    }

    /// (.., c) -> (c)
    fn sum_parts(&self, parts: Tensor, c: usize) -> Tensor {
        self.reshape(self.sum(self.reshape(parts, &[parts.len() / c, c]), &[0]), &[c])
    }

    /// Any of the normalisations in differentiable ops. `inputs`: x, then weight and bias where `after` has them.
    fn norm_composed(
        &self,
        inputs: &[Tensor],
        s: Groups,
        centered: bool,
        stats: Option<Tensor>,
        after: After,
    ) -> Tensor {
        let (x, affine) = (inputs[0], &inputs[1..]);
        let wide = self.reshape(x, &[s.n, s.l, s.groups, s.width]);
        let part = |stats, i| self.reshape(self.slice(stats, 1, i, 1), &[1, 1, s.groups, 1]);
        let off = match stats {
            Some(stats) => self.sub(wide, part(stats, 0)),
            None if centered => self.sub(wide, self.mean(wide, &[1, 3])),
            None => wide,
        };
        let var = stats.map_or_else(|| self.mean(self.mul(off, off), &[1, 3]), |stats| part(stats, 1));
        let normal = self.div(off, self.sqrt(self.add_scalar(var, after.eps)));
        let mut y = self.reshape(normal, &[s.n * s.l, s.groups * s.width]);
        if after.weight.is_some() {
            y = self.mul(y, affine[0]);
        }
        if after.bias.is_some() {
            y = self.add(y, affine[affine.len() - 1]);
        }
        self.reshape(self.act(y, after.act), x.shape())
    }
}
