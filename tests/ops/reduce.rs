use crate::harness::{Arr, Case, gpu, random};
use kaleid::core::{Graph, Plan, Store};

fn sum(x: &Arr, dims: &[usize]) -> Arr {
    let mut shape = x.shape.clone();
    dims.iter().for_each(|&d| shape[d] = 1);
    let mut out = Arr::new(&shape, vec![0.0; shape.iter().product()]);
    for flat in 0..x.data.len() {
        let (mut rest, mut to, mut step) = (flat, 0, 1);
        for d in (0..shape.len()).rev() {
            let i = rest % x.shape[d];
            rest /= x.shape[d];
            to += if shape[d] == 1 { 0 } else { i * step };
            step *= shape[d];
        }
        out.data[to] += x.data[flat];
    }
    out
}

#[test]
fn sums_and_means_over_any_dimensions() {
    let cases: [(&[usize], &[usize]); 9] = [
        (&[2, 3, 5, 7], &[3]),
        (&[2, 3, 5, 7], &[0]),
        (&[2, 3, 5, 7], &[1, 2]),
        (&[2, 3, 5, 7], &[0, 3]),
        (&[2, 3, 5, 7], &[0, 1, 2, 3]),
        (&[1], &[0]),
        (&[5000, 3], &[0]),
        (&[3, 5000], &[1]),
        (&[70_000], &[0]),
    ];
    for (shape, dims) in cases {
        Case::new("sum", &[shape]).check(|g, x| g.sum(x[0], dims), |x| sum(&x[0], dims));
        let n: usize = dims.iter().map(|&d| shape[d]).product();
        Case::new("mean", &[shape])
            .check(|g, x| g.mean(x[0], dims), |x| sum(&x[0], dims).map(|v| v / n as f64));
    }
}

#[test]
fn max_gives_its_gradient_to_the_largest() {
    let cases: [(&[usize], &[usize]); 6] = [
        (&[2, 3, 5, 7], &[3]),
        (&[2, 3, 5, 7], &[1, 2]),
        (&[2, 3, 5, 7], &[0, 3]),
        (&[1], &[0]),
        (&[600, 3], &[0]),
        (&[3, 600], &[0, 1]),
    ];
    for (shape, dims) in cases {
        let largest = |x: &Arr| {
            let mut out = sum(x, dims).map(|_| f64::MIN);
            let reduced = out.shape.clone();
            let index = Arr::from_fn(&x.shape, |i| {
                let from = 4 - reduced.len();
                reduced
                    .iter()
                    .enumerate()
                    .fold(0, |at, (d, &n)| at * n + if n == 1 { 0 } else { i[from + d] })
                    as f64
            });
            for (v, at) in x.data.iter().zip(&index.data) {
                out.data[*at as usize] = out.data[*at as usize].max(*v);
            }
            out
        };
        Case::new("max", &[shape]).check(|g, x| g.max(x[0], dims), |x| largest(&x[0]));
    }
}

#[test]
fn argmax_is_the_first_largest() {
    for [rows, width] in [[3, 7], [1, 1], [2, 1000], [40, 5]] {
        // Few different values, so that many are equal.
        let x: Vec<f32> = (0..rows * width).map(|i| (random(3, i) * 3.0).floor() as f32 - 5.0).collect();
        let first = |row: &[f32]| {
            let largest = row.iter().fold(f32::MIN, |m, &v| m.max(v));
            row.iter().position(|&v| v == largest).unwrap() as u32
        };
        let want: Vec<u32> = x.chunks(width).map(first).collect();
        let g = Graph::new(gpu().caps());
        let y = g.argmax(g.constant(&[rows, width], &x));
        assert_eq!(y.shape(), [rows]);
        g.output("y", y);
        let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
        plan.run().unwrap();
        assert_eq!(plan.read_u32("y").unwrap(), want);
    }
}

#[test]
fn quantile_lies_between_the_two_nearest_elements() {
    for (shape, q) in [
        (vec![3, 7], 0.5),
        (vec![40, 16], 2.0 / 3.0),
        (vec![2, 3, 1001], 0.9),
        (vec![1], 0.3),
        (vec![5, 2], 0.0),
        (vec![70, 33], 1.0),
    ] {
        let between = |row: &[f64]| {
            let mut sorted = row.to_vec();
            sorted.sort_by(f64::total_cmp);
            let place = q * (row.len() - 1) as f64;
            let (low, high) = (place.floor() as usize, place.ceil() as usize);
            sorted[low] + (place - place.floor()) * (sorted[high] - sorted[low])
        };
        let (width, n) = (shape[shape.len() - 1], shape.iter().product());
        // Few different values as well, so that many are equal.
        for values in [1e6, 3.0] {
            let x: Vec<f32> = (0..n).map(|i| ((random(5, i) * values).floor() / values) as f32).collect();
            let rows: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
            let want: Vec<f64> = rows.chunks(width).map(between).collect();
            let g = Graph::new(gpu().caps());
            let y = g.quantile(g.constant(&shape, &x), q);
            assert_eq!((y.len(), y.last()), (n / width, 1));
            g.output("y", y);
            let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
            plan.run().unwrap();
            for (got, want) in plan.read("y").unwrap().iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 1e-6, "{q} of {shape:?}: {got} for {want}");
            }
        }
    }
}
