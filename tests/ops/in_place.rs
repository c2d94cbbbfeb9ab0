//! Slices, joined columns and doubled images are not stored where the op behind them can read them where they lie.

use crate::attention::attention;
use crate::conv::conv;
use crate::harness::{Arr, Case};
use crate::matmul::{matmul, transpose};
use crate::norm::group_norm;
use crate::pool::nearest;
use kaleid::core::{Graph, Tensor, dispatches};
use kaleid::ops::{Act, Attention, Conv, Epilogue, Matmul};

/// Records `op` and sees that nothing is moved before it.
fn unmoved(op: impl Fn(&Graph, &[Tensor]) -> Tensor) -> impl Fn(&Graph, &[Tensor]) -> Tensor {
    move |g, x| {
        let y = op(g, x);
        let alone = Graph::new(g.caps());
        let x: Vec<Tensor> =
            x.iter().enumerate().map(|(i, t)| alone.input(&format!("x{i}"), t.shape(), t.dtype())).collect();
        alone.output("y", op(&alone, &x));
        let all: Vec<String> = dispatches(&alone).into_iter().map(|d| d.kernel).collect();
        let moves = |name: &String| ["copy", "concat", "upsample"].iter().any(|m| name.starts_with(m));
        assert!(!all.iter().any(moves), "{all:?}");
        y
    }
}

/// Columns of a two-dimensional array.
fn columns(x: &Arr, first: usize, width: usize) -> Arr {
    let rows = x.data.len() / x.shape[x.shape.len() - 1];
    let wide = x.data.len() / rows;
    let data = (0..rows * width).map(|i| x.data[i / width * wide + first + i % width]).collect();
    let mut shape = x.shape.clone();
    *shape.last_mut().unwrap() = width;
    Arr::new(&shape, data)
}

fn joined(a: &Arr, b: &Arr) -> Arr {
    let (wa, wb) = (a.shape[a.shape.len() - 1], b.shape[b.shape.len() - 1]);
    let rows = a.data.len() / wa;
    let row = |i: usize| a.data[i * wa..][..wa].iter().chain(&b.data[i * wb..][..wb]).copied();
    let mut shape = a.shape.clone();
    *shape.last_mut().unwrap() = wa + wb;
    Arr::new(&shape, (0..rows).flat_map(row).collect())
}

#[test]
fn linear_reads_joined_columns_and_columns_of_a_wider_tensor() {
    for [rows, left, right, out] in [[5, 4, 8, 12], [70, 36, 20, 7], [1, 8, 4, 9]] {
        Case::new("linear", &[&[rows, left], &[rows, right], &[out, left + right]])
            .check(unmoved(|g, x| g.linear(g.concat(&x[..2], 1), x[2], None)), |x| {
                matmul(&joined(&x[0], &x[1]), &transpose(&x[2]))
            });
    }
    for [rows, first, width, out] in [[5, 4, 8, 12], [70, 20, 36, 7], [3, 8, 4, 9]] {
        let wide = first + width + 4;
        Case::new("linear", &[&[rows, wide], &[out, width], &[1, 3 * out]]).check(
            unmoved(move |g, x| {
                let bias = g.reshape(g.slice(x[2], 1, out, out), &[out]);
                g.linear(g.slice(x[0], 1, first, width), x[1], Some(bias))
            }),
            |x| {
                let y = matmul(&columns(&x[0], first, width), &transpose(&x[1]));
                let bias = |i: usize| x[2].data[out + i % out];
                Arr::new(&y.shape, y.data.iter().enumerate().map(|(i, v)| v + bias(i)).collect())
            },
        );
    }
}

#[test]
fn matmul_reads_the_rows_of_taller_matrices() {
    for [batch, m, first, rows, d] in [[3, 5, 0, 6, 8], [2, 3, 4, 8, 4], [1, 9, 0, 7, 12]] {
        let taken = move |x: &Arr| {
            let matrices = x.data.chunks(x.data.len() / batch);
            Arr::new(&[batch, rows, d], matrices.flat_map(|m| m[first * d..][..rows * d].to_vec()).collect())
        };
        Case::new("matmul", &[&[batch, m, d], &[batch, first + rows + 3, d]]).check(
            unmoved(move |g, x| {
                let b = g.slice(x[1], 1, first, rows);
                g.matmul_with(x[0], b, Matmul { transpose_b: true, ..Default::default() })
            }),
            |x| matmul(&x[0], &transpose(&taken(&x[1]))),
        );
    }
}

#[test]
fn conv2d_reads_a_doubled_image_at_half_its_size() {
    for [h, w, c, o] in [[3, 5, 4, 8], [4, 2, 8, 4]] {
        Case::new("conv2d", &[&[2, h, w, c], &[o, 3, 3, c]]).check(
            unmoved(move |g, x| g.conv2d(g.upsample_nearest(x[0], 2 * h, 2 * w), x[1], Conv::same(3))),
            |x| conv(&nearest(&x[0], 2 * h, 2 * w), &x[1], 1, [1; 4]),
        );
    }
}

#[test]
fn group_norm_reads_joined_columns() {
    for [left, right, groups] in [[8, 4, 3], [4, 20, 4], [16, 8, 8]] {
        let c = left + right;
        Case::new("group_norm", &[&[2, 3, 5, left], &[2, 3, 5, right], &[c], &[c]]).check(
            unmoved(move |g, x| g.group_norm(g.concat(&x[..2], 3), groups, x[2], x[3], 1e-5, Act::None)),
            |x| group_norm(&joined(&x[0], &x[1]), groups, &x[2].data, &x[3].data),
        );
    }
}

#[test]
fn attention_reads_queries_keys_and_values_of_one_product() {
    // Of a kernel's width, and of one that is made of products.
    for [t, heads, d] in [[9, 2, 8], [5, 1, 40], [7, 2, 88], [6, 3, 96]] {
        let c = heads * d;
        Case::new("attention", &[&[2, t, 3 * c]]).check(
            unmoved(move |g, x| {
                let part = |i| g.reshape(g.slice(x[0], 2, i * c, c), &[2, t, heads, d]);
                g.attention(part(0), part(1), part(2), Attention::default())
            }),
            |x| {
                let part = |i| Arr::new(&[2, t, heads, d], columns(&x[0], i * c, c).data);
                attention(&part(0), &part(1), &part(2), 1.0 / (d as f64).sqrt(), false)
            },
        );
    }
}

#[test]
fn pieces_of_a_long_inner_size_get_bias_activation_and_residual_once() {
    for n in [8, 7] {
        Case::new("linear", &[&[6, 2052], &[n, 2052], &[n], &[6, n]]).range(-0.1, 0.1).check(
            |g, x| {
                let epilogue = Epilogue { bias: Some(x[2]), act: Act::Silu, residual: Some(x[3]) };
                g.linear_with(x[0], x[1], epilogue)
            },
            |x| {
                let z = matmul(&x[0], &transpose(&x[1]));
                let y = |(i, v): (usize, &f64)| {
                    let z = v + x[2].data[i % n];
                    z / (1.0 + (-z).exp()) + x[3].data[i]
                };
                Arr::new(&z.shape, z.data.iter().enumerate().map(y).collect())
            },
        );
    }
}
