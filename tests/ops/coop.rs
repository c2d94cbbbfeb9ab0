//! Products and convolutions of f16 numbers, in all their forms: by matrix units where the adapter has them (`KALEID_KERNELS=all` on
//! today's lavapipe), else by the plain kernel. Either way within what rounding to f16 explains.

use crate::attention::attention;
use crate::conv::conv;
use crate::harness::{Arr, Case};
use crate::matmul::{matmul, transpose};
use kaleid::core::DType::{F16, F32};
use kaleid::ops::{Act, Attention, Conv, Epilogue, Matmul};

const ROUNDED: f64 = 2e-3;

#[test]
fn products_of_f16_numbers_of_any_size_and_transpose() {
    for [m, n, k] in [[5, 8, 4], [33, 12, 20], [65, 68, 36], [130, 72, 52], [9, 200, 132]] {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = if transpose_a { [k, m] } else { [m, k] };
            let b = if transpose_b { [n, k] } else { [k, n] };
            let options = Matmul { transpose_a, transpose_b, ..Default::default() };
            Case::new("matmul", &[&a, &b]).tolerance(ROUNDED).gradients(&[0]).check(
                |g, x| g.matmul_with(x[0], g.to(x[1], F16), options),
                |x| {
                    let a = if transpose_a { transpose(&x[0]) } else { x[0].clone() };
                    let b = if transpose_b { transpose(&x[1]) } else { x[1].clone() };
                    matmul(&a, &b)
                },
            );
        }
    }
}

#[test]
fn batches_long_inner_sizes_and_epilogues_of_f16_numbers() {
    Case::new("matmul", &[&[3, 20, 36], &[3, 36, 24]])
        .tolerance(ROUNDED)
        .gradients(&[0])
        .check(|g, x| g.matmul(x[0], g.to(x[1], F16)), |x| matmul(&x[0], &x[1]));
    for n in [8, 12] {
        let shapes: [&[usize]; 4] = [&[7, 2052], &[n, 2052], &[n], &[7, n]];
        Case::new("linear", &shapes).range(-0.1, 0.1).tolerance(ROUNDED).gradients(&[0, 2, 3]).check(
            |g, x| {
                let epilogue = Epilogue { bias: Some(x[2]), act: Act::Relu, residual: Some(x[3]) };
                g.linear_with(x[0], g.to(x[1], F16), epilogue)
            },
            |x| {
                let mut y = matmul(&x[0], &transpose(&x[1]));
                for (i, v) in y.data.iter_mut().enumerate() {
                    *v = (*v + x[2].data[i % n]).max(0.0) + x[3].data[i];
                }
                y
            },
        );
    }
}

#[test]
fn convolutions_of_f16_numbers() {
    for ([n, h, w, c], o, stride) in [([2, 5, 7, 8], 12, 1), ([1, 9, 8, 4], 20, 2), ([1, 12, 11, 36], 68, 1)]
    {
        Case::new("conv2d", &[&[n, h, w, c], &[o, 3, 3, c]]).tolerance(ROUNDED).gradients(&[0]).check(
            |g, x| g.conv2d(x[0], g.to(x[1], F16), Conv::strided(3, stride)),
            |x| conv(&x[0], &x[1], stride, [1; 4]),
        );
        // Of f16 activations, as in training: the weight's gradient too.
        Case::new("conv2d", &[&[n, h, w, c], &[o, 3, 3, c]]).tolerance(ROUNDED).check(
            |g, x| g.to(g.conv2d(g.to(x[0], F16), x[1], Conv::strided(3, stride)), F32),
            |x| conv(&x[0], &x[1], stride, [1; 4]),
        );
    }
}

#[test]
fn attention_of_f16_numbers_of_any_lengths_and_groups_of_heads() {
    for [b, tq, tk, h, hk, d] in
        [[2, 37, 70, 4, 2, 40], [1, 70, 33, 2, 2, 64], [1, 5, 130, 3, 3, 80], [1, 33, 33, 2, 1, 8]]
    {
        for causal in [false, true] {
            let flat = |t: usize, heads: usize| [b, t, heads * d];
            let shapes = [flat(tq, h), flat(tk, hk), flat(tk, hk)];
            let options = Attention { causal, ..Default::default() };
            Case::new("attention", &[&shapes[0], &shapes[1], &shapes[2]])
                .tolerance(ROUNDED)
                .forward_only()
                .check(
                    |g, x| {
                        let part = |i: usize, t, heads| g.reshape(g.to(x[i], F16), &[b, t, heads, d]);
                        let y = g.attention(part(0, tq, h), part(1, tk, hk), part(2, tk, hk), options);
                        g.to(g.reshape(y, &shapes[0]), F32)
                    },
                    |x| {
                        let part = |i: usize, t, heads| Arr::new(&[b, t, heads, d], x[i].data.clone());
                        let scale = 1.0 / (d as f64).sqrt();
                        let y = attention(&part(0, tq, h), &part(1, tk, hk), &part(2, tk, hk), scale, causal);
                        Arr::new(&shapes[0], y.data)
                    },
                );
        }
    }
}
