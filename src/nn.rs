//! Layers as functions over [`Weights`]: each asks for "weight" and "bias" below the path it is given.

use crate::core::{Graph, Tensor, Weights};
use crate::ops::{Act, Conv, Epilogue};

/// y = x w^T + b, for torch's `nn.Linear`: x (.., in) -> (.., out).
#[track_caller]
pub fn linear(g: &Graph, w: &Weights, x: Tensor, out: usize, bias: bool) -> Tensor {
    linear_with(g, w, x, out, bias, Epilogue::default())
}

/// [`linear`] with an activation and a residual written by the same kernel.
#[track_caller]
pub fn linear_with(g: &Graph, w: &Weights, x: Tensor, out: usize, bias: bool, epilogue: Epilogue) -> Tensor {
    let weight = w.get("weight", &[out, x.last()]);
    let bias = bias.then(|| w.get("bias", &[out]));
    g.linear_with(x, weight, Epilogue { bias, ..epilogue })
}

/// Torch's `nn.Conv2d` with a square kernel: x (N, H, W, C) -> (N, OH, OW, out).
#[track_caller]
pub fn conv2d(
    g: &Graph,
    w: &Weights,
    x: Tensor,
    out: usize,
    kernel: usize,
    conv: Conv,
    bias: bool,
) -> Tensor {
    let weight = w.get("weight", &[out, x.last(), kernel, kernel]);
    let bias = bias.then(|| w.get("bias", &[out]));
    g.conv2d(x, weight, Conv { epilogue: Epilogue { bias, ..conv.epilogue }, ..conv })
}

/// Torch's `nn.LayerNorm` over the last dimension.
#[track_caller]
pub fn layer_norm(g: &Graph, w: &Weights, x: Tensor, eps: f32) -> Tensor {
    let [weight, bias] = ["weight", "bias"].map(|name| Some(w.get(name, &[x.last()])));
    g.layer_norm(x, weight, bias, eps)
}

/// Torch's `nn.GroupNorm` of x (N, H, W, C) or (B, T, C), with an activation written by the same kernel.
#[track_caller]
pub fn group_norm(g: &Graph, w: &Weights, x: Tensor, groups: usize, eps: f32, act: Act) -> Tensor {
    let [weight, bias] = ["weight", "bias"].map(|name| w.get(name, &[x.last()]));
    g.group_norm(x, groups, weight, bias, eps, act)
}

/// Torch's `nn.RMSNorm` over the last dimension.
#[track_caller]
pub fn rms_norm(g: &Graph, w: &Weights, x: Tensor, eps: f32) -> Tensor {
    g.rms_norm(x, w.get("weight", &[x.last()]), eps)
}
