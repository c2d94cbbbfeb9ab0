//! Layers as functions over [`Weights`]: each asks for "weight" and "bias" below the path it is given, and records into the graph
//! that the weights belong to.

use crate::core::{Tensor, Weights};
use crate::ops::{Act, Conv, Epilogue};

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
