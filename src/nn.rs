//! Layers as functions over [`Weights`]: each asks for "weight" and "bias" below the path it is given.

use crate::core::{Graph, Tensor, Weights};
use crate::ops::{Conv, Epilogue};

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
