use crate::harness::{Arr, Case, compare, gpu, random};
use kaleid::core::{DType, Graph, Plan, Store, Weights};
use kaleid::ops::{Act, Epilogue, Matmul};

pub fn transpose(x: &Arr) -> Arr {
    let mut shape = x.shape.clone();
    let r = shape.len();
    shape.swap(r - 1, r - 2);
    Arr::from_fn(&shape, |[a, b, i, j]| x.at([a, b, j, i]))
}

pub fn matmul(a: &Arr, b: &Arr) -> Arr {
    let rank = a.shape.len().max(b.shape.len());
    let lead =
        |x: &Arr, d: usize| if x.shape.len() + d < rank { 1 } else { x.shape[x.shape.len() + d - rank] };
    let mut shape: Vec<usize> = (0..rank - 2).map(|d| lead(a, d).max(lead(b, d))).collect();
    let (m, k, n) = (a.shape[a.shape.len() - 2], a.shape[a.shape.len() - 1], b.shape[b.shape.len() - 1]);
    shape.extend([m, n]);
    Arr::from_fn(&shape, |[x, y, i, j]| (0..k).map(|k| a.at([x, y, i, k]) * b.at([x, y, k, j])).sum())
}

#[test]
fn products_of_any_size_and_transpose() {
    for [m, n, k] in
        [[1, 1, 1], [3, 5, 7], [4, 4, 4], [33, 17, 130], [130, 140, 20], [7, 260, 33], [65, 12, 8]]
    {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a: &[usize] = if ta { &[k, m] } else { &[m, k] };
            let b: &[usize] = if tb { &[n, k] } else { &[k, n] };
            let options = Matmul { transpose_a: ta, transpose_b: tb, ..Default::default() };
            Case::new("matmul_with", &[a, b]).check(
                |g, x| g.matmul_with(x[0], x[1], options),
                |x| {
                    let a = if ta { transpose(&x[0]) } else { x[0].clone() };
                    let b = if tb { transpose(&x[1]) } else { x[1].clone() };
                    matmul(&a, &b)
                },
            );
        }
    }
}

#[test]
fn batches_are_multiplied_entry_by_entry_or_share_one_matrix() {
    let pairs: [[&[usize]; 2]; 4] = [
        [&[3, 5, 6], &[3, 6, 9]],
        [&[2, 3, 5, 6], &[2, 3, 6, 4]],
        [&[3, 5, 6], &[6, 9]],
        [&[5, 6], &[3, 6, 9]],
    ];
    for pair in pairs {
        Case::new("matmul", &pair).check(|g, x| g.matmul(x[0], x[1]), |x| matmul(&x[0], &x[1]));
    }
}

#[test]
fn few_rows_have_a_kernel_of_their_own() {
    let options = Matmul { transpose_b: true, ..Default::default() };
    for (batch, m, n, k) in [(1, 1, 37, 100), (1, 2, 8, 4), (3, 3, 21, 36), (2, 4, 1, 132)] {
        Case::new("matmul_with", &[&[batch, m, k], &[batch, n, k]])
            .check(|g, x| g.matmul_with(x[0], x[1], options), |x| matmul(&x[0], &transpose(&x[1])));
    }
    for rows in 1..=4 {
        let shapes: [&[usize]; 4] = [&[rows, 52], &[19, 52], &[19], &[rows, 19]];
        Case::new("linear_with", &shapes).tolerance(5e-5).check(
            |g, x| {
                g.linear_with(x[0], x[1], Epilogue { bias: Some(x[2]), act: Act::Silu, residual: Some(x[3]) })
            },
            |x| {
                let y = matmul(&x[0], &transpose(&x[1]));
                Arr::from_fn(&y.shape, |at| {
                    let z = y.at(at) + x[2].data[at[3]];
                    z / (1.0 + (-z).exp()) + x[3].at(at)
                })
            },
        );
    }
}

#[test]
fn long_inner_sizes_are_cut_and_summed() {
    Case::new("matmul", &[&[4, 4100], &[4100, 5]])
        .check(|g, x| g.matmul(x[0], x[1]), |x| matmul(&x[0], &x[1]));
}

#[test]
fn linear_is_torchs_with_bias_activation_and_residual() {
    for [rows, i, o] in [[6, 5, 7], [33, 64, 48], [1, 1, 1]] {
        Case::new("linear", &[&[2, rows, i], &[o, i], &[o]]).check(
            |g, x| g.linear(x[0], x[1], Some(x[2])),
            |x| {
                let y = matmul(&x[0], &transpose(&x[1]));
                Arr::from_fn(&y.shape, |at| y.at(at) + x[2].data[at[3]])
            },
        );
        Case::new("linear_with", &[&[2, rows, i], &[o, i], &[o], &[2, rows, o]]).tolerance(5e-5).check(
            |g, x| {
                g.linear_with(x[0], x[1], Epilogue { bias: Some(x[2]), act: Act::Silu, residual: Some(x[3]) })
            },
            |x| {
                let y = matmul(&x[0], &transpose(&x[1]));
                Arr::from_fn(&y.shape, |at| {
                    let z = y.at(at) + x[2].data[at[3]];
                    z / (1.0 + (-z).exp()) + x[3].at(at)
                })
            },
        );
    }
}

#[test]
fn f16_weights_are_read_without_any_device_feature() {
    for [m, n, k] in [[5, 7, 9], [20, 12, 64]] {
        let g = Graph::new(gpu().caps());
        let w = Weights::new(&g, DType::F16);
        let x = g.input("x", &[m, k], DType::F32);
        g.output("y", g.linear(x, w.get("weight", &[n, k]), None));
        let mut store = Store::new(gpu());
        let halves: Vec<f32> = (0..n * k).map(|i| half::f16::from_f64(random(3, i)).to_f32()).collect();
        store.write_as("weight", &[n, k], DType::F16, &halves).unwrap();
        let mut plan = Plan::new(gpu(), g, &store).unwrap();
        let data: Vec<f32> = (0..m * k).map(|i| random(4, i) as f32).collect();
        plan.write("x", &data).unwrap();
        plan.run().unwrap();
        let f64s = |v: &[f32]| v.iter().map(|&v| v as f64).collect::<Vec<_>>();
        let want = matmul(&Arr::new(&[m, k], f64s(&data)), &transpose(&Arr::new(&[n, k], f64s(&halves))));
        // Matrix units round x as well.
        let tolerance = if gpu().caps().coop.is_some() { 1e-3 } else { 1e-5 };
        compare("f16 linear", &plan.read("y").unwrap(), &want.data, tolerance);
    }
}
