//! Ops on f16 activations against the same references, and what only they have.

use crate::attention::attention;
use crate::conv::conv;
use crate::elementwise::geglu;
use crate::harness::{Arr, Case, gpu, random};
use crate::matmul::{matmul, transpose};
use crate::norm::{batch_norm, group_norm, layer_norm, normalised};
use crate::pool::{nearest, pool};
use kaleid::core::{DType, Graph, Plan, Store, Tensor};
use kaleid::ops::{Act, Attention, Conv, Epilogue};

/// f16 keeps 11 bits: 2^-11 of every number that goes in and comes out.
const ROUNDING: f64 = 2e-3;

/// The op on inputs of which those before `halves` are rounded to f16.
fn rounded<'a>(
    halves: usize,
    op: impl Fn(&Graph, &[Tensor]) -> Tensor + 'a,
) -> impl Fn(&Graph, &[Tensor]) -> Tensor + 'a {
    move |g, x| {
        let x: Vec<Tensor> =
            x.iter().enumerate().map(|(i, &t)| if i < halves { g.to(t, DType::F16) } else { t }).collect();
        g.to(op(g, &x), DType::F32)
    }
}

#[test]
fn what_a_residual_network_is_made_of_takes_f16() {
    for (x, w, stride, padding) in [
        ([2, 5, 6, 4], [8, 3, 3, 4], 1, 1),
        ([1, 7, 6, 8], [4, 3, 3, 8], 2, 1),
        ([2, 6, 5, 12], [20, 1, 1, 12], 1, 0),
        ([1, 9, 9, 4], [4, 7, 7, 4], 2, 3),
        ([1, 5, 4, 8], [16, 1, 1, 8], 2, 0),
        ([1, 4, 4, 128], [4, 3, 3, 128], 1, 1),
    ] {
        Case::new("conv2d of f16", &[&x, &w])
            .tolerance(ROUNDING)
            .check(rounded(1, |g, t| g.conv2d(t[0], t[1], Conv::strided(w[1], stride))), |t| {
                conv(&t[0], &t[1], stride, [padding; 4])
            });
    }
    Case::new("conv2d of f16 with bias", &[&[1, 3, 5, 4], &[8, 3, 3, 4], &[8]]).tolerance(ROUNDING).check(
        rounded(1, |g, t| g.conv2d(t[0], t[1], Conv::same(3).bias(t[2]))),
        |t| {
            let y = conv(&t[0], &t[1], 1, [1; 4]);
            Arr::from_fn(&y.shape, |i| y.at(i) + t[2].at(i))
        },
    );
    for shape in [&[2, 3, 5, 4][..], &[1, 1, 1, 12], &[7, 8]] {
        Case::new("relu of f16", &[shape])
            .tolerance(ROUNDING)
            .check(rounded(1, |g, x| g.relu(x[0])), |x| x[0].map(|v| v.max(0.0)));
        Case::new("add of f16", &[shape, shape])
            .tolerance(ROUNDING)
            .check(rounded(2, |g, x| g.add(x[0], x[1])), |x| {
                Arr::from_fn(shape, |i| x[0].at(i) + x[1].at(i))
            });
        let all: Vec<usize> = (0..shape.len()).collect();
        Case::new("sum of f16", &[shape])
            .tolerance(ROUNDING)
            .check(rounded(1, |g, x| g.sum(x[0], &all)), |x| {
                Arr::new(&vec![1; shape.len()], vec![x[0].data.iter().sum()])
            });
    }
    Case::new("mean over pixels of f16", &[&[3, 4, 5, 8]]).tolerance(ROUNDING).check(
        rounded(1, |g, x| g.mean(x[0], &[1, 2])),
        |x| {
            let sum = |n, c| (0..20).map(|i| x[0].at([n, i / 5, i % 5, c])).sum::<f64>();
            Arr::from_fn(&[3, 1, 1, 8], |[n, _, _, c]| sum(n, c) / 20.0)
        },
    );
    Case::new("max_pool2d of f16", &[&[2, 7, 6, 4]])
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.max_pool2d(x[0], 3, 2, 1)), |x| {
            pool(&x[0], [3, 2, 1], f64::MIN, f64::max)
        });
}

#[test]
fn normalisation_over_columns_takes_f16() {
    let shapes: [&[usize]; 3] = [&[3, 4, 5, 8], &[8], &[8]];
    for parts in [1, 3] {
        Case::new("batch_norm of f16", &shapes)
            .tolerance(ROUNDING)
            .check(rounded(1, |g, x| g.batch_norm(x[0], x[1], x[2], 1e-5, parts).y), |x| {
                batch_norm(&x[0], &x[1].data, &x[2].data, parts)
            });
    }
    Case::new("batch_norm_frozen of f16", &shapes).tolerance(ROUNDING).check(
        rounded(1, |g, x| {
            let (mean, var) = (g.constant(&[8], &[0.5; 8]), g.constant(&[8], &[2.0; 8]));
            g.batch_norm_frozen(x[0], mean, var, x[1], x[2], 1e-5)
        }),
        |x| normalised(&x[0], [1, 60, 8, 1], &[(0.5, 2.0); 8], &x[1].data, &x[2].data),
    );
    Case::new("group_norm of f16", &shapes)
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.group_norm(x[0], 2, x[1], x[2], 1e-5, Act::Silu)), |x| {
            group_norm(&x[0], 2, &x[1].data, &x[2].data).map(|z| z / (1.0 + (-z).exp()))
        });
}

#[test]
fn what_transformers_are_made_of_takes_f16() {
    Case::new("layer_norm of f16", &[&[5, 12], &[12], &[12]])
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.layer_norm(x[0], Some(x[1]), Some(x[2]), 1e-5)), |x| {
            layer_norm(&x[0], &x[1].data, &x[2].data)
        });
    Case::new("geglu of f16", &[&[3, 16]])
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.geglu(x[0])), |x| geglu(&x[0]));
    Case::new("scale of f16", &[&[3, 8]])
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.add_scalar(g.scale(x[0], 3.0), -1.0)), |x| x[0].map(|v| 3.0 * v - 1.0));
    // Of a kernel's width, of one that is made of products, and of one that no vector fits.
    for [tq, tk, heads, d] in [[7, 9, 2, 8], [5, 5, 3, 40], [6, 11, 2, 96], [4, 6, 4, 6]] {
        let (q, kv) = ([2, tq, heads, d], [2, tk, heads, d]);
        let flat = |s: [usize; 4]| [s[0], s[1], s[2] * s[3]];
        Case::new("attention of f16", &[&flat(q), &flat(kv), &flat(kv)])
            .tolerance(ROUNDING)
            .forward_only()
            .check(
                rounded(3, move |g, x| {
                    let part = |i: usize, shape: [usize; 4]| g.reshape(x[i], &shape);
                    let y = g.attention(part(0, q), part(1, kv), part(2, kv), Attention::default());
                    g.reshape(y, &flat(q))
                }),
                |x| {
                    let part = |i: usize, shape: &[usize]| Arr::new(shape, x[i].data.clone());
                    let scale = 1.0 / (d as f64).sqrt();
                    let y = attention(&part(0, &q), &part(1, &kv), &part(2, &kv), scale, false);
                    Arr::new(&flat(q), y.data)
                },
            );
    }
}

#[test]
fn products_of_f16_take_a_residual_of_f16_and_long_inner_sizes() {
    for k in [12, 2052] {
        let shapes: [&[usize]; 4] = [&[6, k], &[6, 8], &[8, k], &[8]];
        Case::new("linear of f16", &shapes).range(-0.2, 0.2).tolerance(ROUNDING).gradients(&[0, 1]).check(
            rounded(2, |g, x| {
                let epilogue = Epilogue { bias: Some(x[3]), act: Act::Relu, residual: Some(x[1]) };
                g.linear_with(x[0], g.to(x[2], DType::F16), epilogue)
            }),
            |x| {
                let mut y = matmul(&x[0], &transpose(&x[2]));
                for (i, v) in y.data.iter_mut().enumerate() {
                    *v = (*v + x[3].data[i % 8]).max(0.0) + x[1].data[i];
                }
                y
            },
        );
    }
}

#[test]
fn what_moves_numbers_takes_f16() {
    Case::new("concat of f16", &[&[2, 3, 8], &[2, 3, 4]]).tolerance(ROUNDING).check(
        rounded(2, |g, x| g.relu(g.concat(&[x[0], x[1]], 2))),
        |x| {
            let at = |[_, n, i, c]: [usize; 4]| {
                if c < 8 { x[0].at([0, n, i, c]) } else { x[1].at([0, n, i, c - 8]) }
            };
            Arr::from_fn(&[2, 3, 12], |i| at(i).max(0.0))
        },
    );
    Case::new("slice of f16", &[&[3, 16]])
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.relu(g.slice(x[0], 1, 4, 8))), |x| {
            Arr::from_fn(&[3, 8], |[_, _, i, c]| x[0].at([0, 0, i, c + 4]).max(0.0))
        });
    Case::new("permute of f16", &[&[2, 3, 2, 4]])
        .tolerance(ROUNDING)
        .check(rounded(1, |g, x| g.permute(x[0], &[0, 2, 1, 3])), |x| {
            Arr::from_fn(&[2, 2, 3, 4], |[a, b, c, d]| x[0].at([a, c, b, d]))
        });
    Case::new("upsample_nearest of f16", &[&[1, 3, 2, 4]])
        .tolerance(ROUNDING)
        .forward_only()
        .check(rounded(1, |g, x| g.upsample_nearest(x[0], 5, 4)), |x| nearest(&x[0], 5, 4));
}

fn run(x: &[f32], shape: &[usize], record: impl Fn(&Graph, Tensor) -> Tensor) -> Vec<f32> {
    let g = Graph::new(gpu().caps());
    let y = record(&g, g.input("x", shape, DType::F32));
    g.output("y", y);
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    plan.write("x", x).unwrap();
    plan.run().unwrap();
    plan.read("y").unwrap()
}

#[test]
fn what_is_too_large_for_f16_becomes_its_largest_number() {
    let x = [1e6, -1e9, 65504.0, 65519.0, -3.0, 0.0, 6e-8, 1e-9];
    let y = run(&x, &[8], |g, x| g.to(g.to(x, DType::F16), DType::F32));
    assert_eq!(y[..6], [65504.0, -65504.0, 65504.0, 65504.0, -3.0, 0.0]);
    // The smallest number of f16 is 2^-24.
    assert!((5.9e-8..6e-8).contains(&y[6]) || y[6] == 0.0, "{}", y[6]);
    assert_eq!(y[7], 0.0);
}

#[test]
fn scaled_gradients_are_right_where_plain_ones_vanish_in_f16() {
    let n = 32 * 8;
    let x: Vec<f32> = (0..n).map(|i| random(1, i) as f32).collect();
    let weight: Vec<f32> = (0..n).map(|i| 1e-9 * random(2, i) as f32).collect();
    let gradient = |scaled: bool| {
        run(&x, &[32, 8], |g, x| {
            let body = |g: &Graph, x| g.to(g.silu(g.to(x, DType::F16)), DType::F32);
            let y = if scaled { g.scale_gradients(x, body) } else { body(g, x) };
            let loss = g.sum(g.mul(y, g.constant(&[32, 8], &weight)), &[0, 1]);
            g.backward(loss, &[x])[0]
        })
    };
    assert!(gradient(false).iter().all(|&dx| dx == 0.0));
    for (i, dx) in gradient(true).iter().enumerate() {
        let s = 1.0 / (1.0 + (-x[i]).exp());
        let want = weight[i] * s * (1.0 + x[i] * (1.0 - s));
        assert!((dx - want).abs() <= 2e-3 * 1e-9, "{i}: {dx}, expected {want}");
    }
    // Nothing to scale.
    let zeros = run(&x, &[32, 8], |g, x| {
        let y = g.scale_gradients(x, |g, x| g.to(g.silu(g.to(x, DType::F16)), DType::F32));
        g.backward(g.sum(g.scale(y, 0.0), &[0, 1]), &[x])[0]
    });
    assert!(zeros.iter().all(|&dx| dx == 0.0));
}

#[test]
#[should_panic(expected = "does not take F16[2, 8]: use `to` before it")]
fn an_op_that_is_not_made_for_f16_refuses_it() {
    let g = Graph::new(gpu().caps());
    g.softmax(g.to(g.input("x", &[2, 8], DType::F32), DType::F16));
}

#[test]
#[should_panic(expected = "depends on parameters of the function")]
fn what_is_scaled_twice_is_refused() {
    let g = Graph::new(gpu().caps());
    let w = g.input("w", &[8], DType::F32);
    g.scale_gradients(g.scale(w, 2.0), |g, x| g.mul(x, w));
}
