use crate::harness::{Arr, Case, compare, gpu};
use kaleid::core::{Graph, Plan, Store};
use kaleid::ops::Act;

const EPS: f64 = 1e-5;

/// Mean and biased variance of each of n x groups blocks of x, seen as (n, l, groups, width).
fn moments(x: &[f64], [n, l, groups, width]: [usize; 4]) -> Vec<(f64, f64)> {
    let block = |b: usize| {
        let (n, g) = (b / groups, b % groups);
        (0..l * width).map(move |i| x[((n * l + i / width) * groups + g) * width + i % width])
    };
    let count = (l * width) as f64;
    (0..n * groups)
        .map(|b| {
            let mean = block(b).sum::<f64>() / count;
            (mean, block(b).map(|v| (v - mean).powi(2)).sum::<f64>() / count)
        })
        .collect()
}

/// (x - mean) / sqrt(var + eps) w + b, with moments of each block; an empty w or b is left out.
pub fn normalised(
    x: &Arr,
    [_, l, groups, width]: [usize; 4],
    moments: &[(f64, f64)],
    w: &[f64],
    b: &[f64],
) -> Arr {
    let data = x.data.iter().enumerate().map(|(i, v)| {
        let (mean, var) = moments[i / (l * groups * width) * groups + i / width % groups];
        let c = i % (groups * width);
        (v - mean) / (var + EPS).sqrt() * w.get(c).unwrap_or(&1.0) + b.get(c).unwrap_or(&0.0)
    });
    Arr::new(&x.shape, data.collect())
}

pub fn layer_norm(x: &Arr, w: &[f64], b: &[f64]) -> Arr {
    let c = x.shape[x.shape.len() - 1];
    let shape = [x.data.len() / c, 1, 1, c];
    normalised(x, shape, &moments(&x.data, shape), w, b)
}

fn rms_norm(x: &Arr, w: &[f64]) -> Arr {
    let c = x.shape[x.shape.len() - 1];
    let square = |row: &[f64]| (0.0, row.iter().map(|v| v * v).sum::<f64>() / c as f64);
    let moments: Vec<(f64, f64)> = x.data.chunks(c).map(square).collect();
    normalised(x, [x.data.len() / c, 1, 1, c], &moments, w, &[])
}

pub fn group_norm(x: &Arr, groups: usize, w: &[f64], b: &[f64]) -> Arr {
    let (n, c) = (x.shape[0], x.shape[x.shape.len() - 1]);
    let shape = [n, x.data.len() / n / c, groups, c / groups];
    normalised(x, shape, &moments(&x.data, shape), w, b)
}

pub fn batch_norm(x: &Arr, w: &[f64], b: &[f64], parts: usize) -> Arr {
    let c = x.shape[x.shape.len() - 1];
    let shape = [parts, x.data.len() / c / parts, c, 1];
    normalised(x, shape, &moments(&x.data, shape), w, b)
}

const E: f32 = EPS as f32;

#[test]
fn layer_norm_and_rms_norm_work_on_rows_of_any_width() {
    let shapes: [&[usize]; 6] = [&[3, 20], &[2, 3, 37], &[5, 2], &[70, 8], &[2, 1280], &[1, 5, 1, 4]];
    for s in shapes {
        let c = &[s[s.len() - 1]];
        Case::new("layer_norm", &[s, c, c]).check(
            |g, x| g.layer_norm(x[0], Some(x[1]), Some(x[2]), E),
            |x| layer_norm(&x[0], &x[1].data, &x[2].data),
        );
        Case::new("layer_norm, no weight", &[s])
            .check(|g, x| g.layer_norm(x[0], None, None, E), |x| layer_norm(&x[0], &[], &[]));
        Case::new("rms_norm", &[s, c])
            .check(|g, x| g.rms_norm(x[0], x[1], E), |x| rms_norm(&x[0], &x[1].data));
    }
    Case::new("layer_norm, no bias", &[&[4, 12], &[12]])
        .check(|g, x| g.layer_norm(x[0], Some(x[1]), None, E), |x| layer_norm(&x[0], &x[1].data, &[]));
}

#[test]
fn a_layer_norm_of_one_column_is_its_bias() {
    Case::new("layer_norm", &[&[3, 1], &[1], &[1]]).check(
        |g, x| g.layer_norm(x[0], Some(x[1]), Some(x[2]), E),
        |x| layer_norm(&x[0], &x[1].data, &x[2].data),
    );
}

#[test]
fn group_norm_takes_groups_that_no_vector_fits_and_an_activation() {
    let cases: [(&[usize], usize); 7] = [
        (&[2, 3, 5, 12], 3),
        (&[2, 7, 6], 3),
        (&[1, 9, 9, 40], 4),
        (&[2, 4, 7], 7),
        (&[3, 5], 1),
        (&[1, 300, 8], 2),
        (&[1, 40, 30, 12], 6),
    ];
    for (s, groups) in cases {
        let c = &[s[s.len() - 1]];
        Case::new("group_norm", &[s, c, c]).tolerance(5e-5).check(
            |g, x| g.group_norm(x[0], groups, x[1], x[2], E, Act::None),
            |x| group_norm(&x[0], groups, &x[1].data, &x[2].data),
        );
        Case::new("group_norm + silu", &[s, c, c]).tolerance(5e-5).check(
            |g, x| g.group_norm(x[0], groups, x[1], x[2], E, Act::Silu),
            |x| group_norm(&x[0], groups, &x[1].data, &x[2].data).map(|v| v / (1.0 + (-v).exp())),
        );
    }
}

#[test]
fn batch_norm_follows_its_statistics_and_frozen_does_not() {
    let cases: [(&[usize], usize); 7] = [
        (&[2, 3, 5, 12], 1),
        (&[2, 20, 20, 3], 1),
        (&[6, 5], 1),
        (&[700, 1], 1),
        (&[6, 3, 5, 12], 3),
        (&[4, 7, 5], 2),
        (&[8, 9, 2, 40], 4),
    ];
    for (s, parts) in cases {
        let c = &[s[s.len() - 1]];
        Case::new("batch_norm", &[s, c, c]).tolerance(5e-5).check(
            |g, x| g.batch_norm(x[0], x[1], x[2], E, parts).y,
            |x| batch_norm(&x[0], &x[1].data, &x[2].data, parts),
        );
        let all = |x: &Arr| moments(&x.data, [parts, x.data.len() / c[0] / parts, c[0], 1]);
        Case::new("batch_norm, mean", &[s, c, c]).forward_only().check(
            |g, x| g.batch_norm(x[0], x[1], x[2], E, parts).mean,
            |x| Arr::new(&[parts, c[0]], all(&x[0]).iter().map(|m| m.0).collect()),
        );
        Case::new("batch_norm, var", &[s, c, c]).forward_only().check(
            |g, x| g.batch_norm(x[0], x[1], x[2], E, parts).var,
            |x| Arr::new(&[parts, c[0]], all(&x[0]).iter().map(|m| m.1).collect()),
        );
        let case = Case::new("batch_norm_frozen", &[s, c, c, c, c]).range(0.5, 2.0).gradients(&[0, 3, 4]);
        case.check(
            |g, x| g.batch_norm_frozen(x[0], x[1], x[2], x[3], x[4], E),
            |x| {
                let moments: Vec<(f64, f64)> =
                    x[1].data.iter().copied().zip(x[2].data.iter().copied()).collect();
                let shape = [1, x[0].data.len() / c[0], c[0], 1];
                normalised(&x[0], shape, &moments, &x[3].data, &x[4].data)
            },
        );
    }
}

#[test]
fn second_derivatives_of_the_norms_are_those_of_their_formulas() {
    for i in 0..3 {
        let case = || Case::new("gradient of a norm", &[&[2, 3, 4], &[4], &[4]]).tolerance(5e-5);
        case().check_second(
            i,
            |g, x| g.batch_norm(x[0], x[1], x[2], E, 1).y,
            |x| batch_norm(&x[0], &x[1].data, &x[2].data, 1),
        );
        case().check_second(
            i,
            |g, x| g.layer_norm(x[0], Some(x[1]), Some(x[2]), E),
            |x| layer_norm(&x[0], &x[1].data, &x[2].data),
        );
        case().check_second(
            i,
            |g, x| g.group_norm(x[0], 2, x[1], x[2], E, Act::Relu),
            |x| group_norm(&x[0], 2, &x[1].data, &x[2].data).map(|v| v.max(0.0)),
        );
        let ones = [1.0; 4];
        case().check_second(
            i,
            |g, x| {
                let one = g.constant(&[4], &ones.map(|v| v as f32));
                g.batch_norm_frozen(x[0], one, one, x[1], x[2], E)
            },
            |x| normalised(&x[0], [1, 6, 4, 1], &[(1.0, 1.0); 4], &x[1].data, &x[2].data),
        );
    }
}

#[test]
fn the_variance_of_large_numbers_close_together_keeps_its_digits() {
    // 4096 + {0, 1, 2, 3}: a sum of squares in f32 would lose the variance, 1.25.
    let x: Vec<f32> = (0..4000).map(|i| 4096.0 + (i * 7 % 4) as f32).collect();
    let want: Vec<f64> = x.iter().map(|&v| (v as f64 - 4097.5) / (1.25f64 + EPS).sqrt()).collect();
    let g = Graph::new(gpu().caps());
    let rows = g.constant(&[1, 4000], &x);
    g.output("rows", g.layer_norm(rows, None, None, E));
    let one = g.constant(&[4], &[1.0; 4]);
    let zero = g.constant(&[4], &[0.0; 4]);
    g.output("groups", g.group_norm(g.reshape(rows, &[1, 1000, 4]), 1, one, zero, E, Act::None));
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    plan.run().unwrap();
    compare("layer_norm", &plan.read("rows").unwrap(), &want, 1e-3);
    compare("group_norm", &plan.read("groups").unwrap(), &want, 1e-3);
}
