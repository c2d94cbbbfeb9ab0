use crate::harness::{Arr, Case};

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
