//! Layers as functions over [`Weights`]: each asks for "weight" and "bias" below the path it is given, and records into the graph
//! that the weights belong to.

use crate::core::{Tensor, Weights};
use crate::ops::{Act, Conv, Epilogue};

/// 1 - momentum of batch normalisation, the share that running statistics keep at an update; torch's default momentum is 0.1.
pub const KEEP: f32 = 0.9;

/// x as activations are kept: as the matrices are, where all of a network's `widths` are multiples of four, which f16 needs.
#[track_caller]
pub fn activations(w: &Weights, x: Tensor, widths: impl IntoIterator<Item = usize>) -> Tensor {
    match widths.into_iter().all(|width| width % 4 == 0) {
        true => w.graph().to(x, w.dtype()),
        false => x,
    }
}

/// y = x w^T + b, torch's `nn.Linear`: x (.., in) -> (.., out).
#[track_caller]
pub fn linear(w: &Weights, x: Tensor, out: usize) -> Tensor {
    linear_with(w, x, out, Epilogue::default())
}

/// [`linear`] with an activation and a residual written by the same kernel.
#[track_caller]
pub fn linear_with(w: &Weights, x: Tensor, out: usize, epilogue: Epilogue) -> Tensor {
    let (weight, bias) = (w.get("weight", &[out, x.last()]), w.get("bias", &[out]));
    w.graph().linear_with(x, weight, Epilogue { bias: Some(bias), ..epilogue })
}

/// y = x w^T: x (.., in) -> (.., out).
#[track_caller]
pub fn linear_no_bias(w: &Weights, x: Tensor, out: usize) -> Tensor {
    w.graph().linear(x, w.get("weight", &[out, x.last()]), None)
}

/// [`linear`] of layers that share their input, by one product: their results, each (.., out).
#[track_caller]
pub fn linears<const N: usize>(w: &Weights, names: [&str; N], x: Tensor, out: usize) -> [Tensor; N] {
    let bias = w.stack(names.map(|name| (w.sub(name).name("bias"), vec![out])).into());
    side_by_side(w, names, x, out, Some(bias))
}

/// [`linears`] without biases.
#[track_caller]
pub fn linears_no_bias<const N: usize>(w: &Weights, names: [&str; N], x: Tensor, out: usize) -> [Tensor; N] {
    side_by_side(w, names, x, out, None)
}

#[track_caller]
fn side_by_side<const N: usize>(
    w: &Weights,
    names: [&str; N],
    x: Tensor,
    out: usize,
    bias: Option<Tensor>,
) -> [Tensor; N] {
    let g = w.graph();
    let weight = w.stack(names.map(|name| (w.sub(name).name("weight"), vec![out, x.last()])).into());
    let y = g.linear(x, weight, bias);
    std::array::from_fn(|i| g.slice(y, y.rank() - 1, i * out, out))
}

/// Torch's `nn.Conv2d`: x (N, H, W, C) -> (N, OH, OW, out).
#[track_caller]
pub fn conv2d(w: &Weights, x: Tensor, out: usize, conv: Conv) -> Tensor {
    let (kernel, bias) = (kernel(w, x, out, conv), w.get("bias", &[out]));
    w.graph().conv2d(x, kernel, conv.bias(bias))
}

/// [`conv2d`] without a bias of its own; `conv` may bring one.
#[track_caller]
pub fn conv2d_no_bias(w: &Weights, x: Tensor, out: usize, conv: Conv) -> Tensor {
    w.graph().conv2d(x, kernel(w, x, out, conv), conv)
}

#[track_caller]
fn kernel(w: &Weights, x: Tensor, out: usize, conv: Conv) -> Tensor {
    let [height, width] = conv.kernel;
    w.get("weight", &[out, x.last(), height, width])
}

/// Torch's `nn.LayerNorm` over the last dimension.
#[track_caller]
pub fn layer_norm(w: &Weights, x: Tensor, eps: f32) -> Tensor {
    let [weight, bias] = ["weight", "bias"].map(|name| Some(w.get(name, &[x.last()])));
    w.graph().layer_norm(x, weight, bias, eps)
}

/// Torch's `nn.GroupNorm` of x (N, H, W, C) or (B, T, C), with an activation written by the same kernel.
#[track_caller]
pub fn group_norm(w: &Weights, x: Tensor, groups: usize, eps: f32, act: Act) -> Tensor {
    let [weight, bias] = ["weight", "bias"].map(|name| w.get(name, &[x.last()]));
    w.graph().group_norm(x, groups, weight, bias, eps, act)
}

/// Torch's `nn.RMSNorm` over the last dimension.
#[track_caller]
pub fn rms_norm(w: &Weights, x: Tensor, eps: f32) -> Tensor {
    w.graph().rms_norm(x, w.get("weight", &[x.last()]), eps)
}

/// What batch normalisation does in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormMode {
    /// Normalises by the running statistics, which stay as they are: torch's evaluation mode, and DomainBed's training.
    Frozen,
    /// Torch's training mode, group by group.
    Live {
        /// Equal groups that the batch is split into, each normalised by its own statistics; the running statistics move as if the
        /// groups had been passed in turn.
        groups: usize,
    },
}

/// Torch's `nn.BatchNorm1d` and `2d` of x (.., C), with its default eps and a momentum of 1 - `keep`.
#[track_caller]
pub fn batch_norm(w: &Weights, x: Tensor, mode: NormMode, keep: f32) -> Tensor {
    let g = w.graph();
    let [weight, bias, mean, var] =
        ["weight", "bias", "running_mean", "running_var"].map(|n| w.get(n, &[x.last()]));
    let NormMode::Live { groups } = mode else {
        return g.batch_norm_frozen(x, mean, var, weight, bias, 1e-5);
    };
    let batch = g.batch_norm(x, weight, bias, 1e-5, groups);
    let n = (x.len() / x.last() / groups) as f32;
    // One update that does what one per group, in turn, does.
    let after = |i: usize| keep.powi(i as i32);
    let shares: Vec<f32> =
        (1..=groups).map(|i| after(groups - i) * (1.0 - keep) / (1.0 - after(groups))).collect();
    let kept = g.constant(&[1], &[after(groups)]);
    let joined = |stats: Tensor| {
        let one = if groups == 1 { stats } else { g.matmul(g.constant(&[1, groups], &shares), stats) };
        g.reshape(one, &[x.last()])
    };
    g.ema(mean, joined(batch.mean), kept);
    // Torch normalises with the biased variance and averages the unbiased one.
    g.ema(var, g.scale(joined(batch.var), n / (n - 1.0).max(1.0)), kept);
    batch.y
}
