use crate::harness::{Arr, Case};
use kaleid::core::DType;

/// Applies a function to each row of the last dimension.
fn rows(x: &Arr, f: impl Fn(&[f64]) -> Vec<f64>) -> Arr {
    Arr::new(&x.shape, x.data.chunks(x.shape[x.shape.len() - 1]).flat_map(f).collect())
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let m = row.iter().fold(f64::MIN, |m, &v| m.max(v));
    let sum: f64 = row.iter().map(|v| (v - m).exp()).sum();
    row.iter().map(|v| v - m - sum.ln()).collect()
}

fn softmax(row: &[f64]) -> Vec<f64> {
    log_softmax(row).iter().map(|v| v.exp()).collect()
}

const SHAPES: [&[usize]; 6] = [&[3, 7], &[2, 3, 4, 8], &[40, 12], &[1], &[5, 1], &[2, 1001]];

#[test]
fn softmax_and_log_softmax_of_rows_of_any_width() {
    for s in SHAPES {
        let case = |name| Case::new(name, &[s]).range(-6.0, 6.0);
        case("softmax").check(|g, x| g.softmax(x[0]), |x| rows(&x[0], softmax));
        case("log_softmax").check(|g, x| g.log_softmax(x[0]), |x| rows(&x[0], log_softmax));
    }
}

#[test]
fn softmax_of_large_numbers_does_not_overflow() {
    let case = |name| Case::new(name, &[&[4, 8]]).range(200.0, 4000.0).forward_only();
    case("softmax").check(|g, x| g.softmax(x[0]), |x| rows(&x[0], softmax));
    case("log_softmax").check(|g, x| g.log_softmax(x[0]), |x| rows(&x[0], log_softmax));
}

fn cross_entropy(x: &Arr, labels: &[u32]) -> Arr {
    let c = x.shape[1];
    let losses = x.data.chunks(c).zip(labels).map(|(row, &l)| -log_softmax(row)[l as usize]);
    Arr::new(&[1], vec![losses.sum::<f64>() / labels.len() as f64])
}

#[test]
fn cross_entropy_is_the_mean_over_rows() {
    for [n, c] in [[4, 7], [33, 8], [1, 1], [2, 1000], [5, 2]] {
        let labels: Vec<u32> = (0..n).map(|i| (i * 5 + c - 1) as u32 % c as u32).collect();
        Case::new("cross_entropy", &[&[n, c]]).words("labels", &labels).range(-4.0, 4.0).check(
            |g, x| g.cross_entropy(x[0], g.input("labels", &[n], DType::U32)),
            |x| cross_entropy(&x[0], &labels),
        );
        Case::new("cross_entropy_rows", &[&[n, c]]).words("labels", &labels).range(-4.0, 4.0).check(
            |g, x| g.cross_entropy_rows(x[0], g.input("labels", &[n], DType::U32)),
            |x| {
                let each = x[0].data.chunks(c).zip(&labels).map(|(row, &l)| -log_softmax(row)[l as usize]);
                Arr::new(&[n], each.collect())
            },
        );
    }
}

#[test]
fn mse_loss_is_the_mean_of_squares() {
    let shapes: [&[usize]; 3] = [&[2, 3, 5, 7], &[1], &[1000]];
    for s in shapes {
        Case::new("mse_loss", &[s, s]).check(
            |g, x| g.mse_loss(x[0], x[1]),
            |x| {
                let squares = x[0].data.iter().zip(&x[1].data).map(|(a, b)| (a - b) * (a - b));
                Arr::new(&[1], vec![squares.sum::<f64>() / x[0].data.len() as f64])
            },
        );
    }
}

#[test]
fn softmax_and_losses_can_be_differentiated_twice() {
    let case = |name| Case::new(name, &[&[3, 5]]).tolerance(5e-5);
    case("softmax").check_second(0, |g, x| g.softmax(x[0]), |x| rows(&x[0], softmax));
    case("log_softmax").check_second(0, |g, x| g.log_softmax(x[0]), |x| rows(&x[0], log_softmax));
    let labels = [4, 0, 2];
    // Squared, so that the gradient that arrives depends on the logits too.
    case("cross_entropy").words("labels", &labels).check_second(
        0,
        |g, x| {
            let loss = g.cross_entropy(x[0], g.input("labels", &[3], DType::U32));
            g.mul(loss, loss)
        },
        |x| cross_entropy(&x[0], &labels).map(|v| v * v),
    );
}

#[test]
fn kde_quantile_is_where_the_kernels_have_their_share() {
    let normal_integral = |z: f64| 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2);
    for (n, q) in [(3, 0.75), (2, 0.5), (6, 0.99), (17, 0.1)] {
        let want = |x: &Arr| {
            let mean = x.data.iter().sum::<f64>() / n as f64;
            let variance = x.data.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let width = 1.06 * variance.sqrt() * (n as f64).powf(-0.2);
            let (mut from, mut to) = (-20.0, 20.0);
            for _ in 0..80 {
                let at = 0.5 * (from + to);
                let share = x.data.iter().map(|v| normal_integral((at - v) / width)).sum::<f64>() / n as f64;
                (from, to) = if share > q { (from, at) } else { (at, to) };
            }
            Arr::new(&[1], vec![from])
        };
        Case::new("kde_quantile", &[&[n]])
            .forward_only()
            .check(|g, x| g.kde_quantile(x[0], q), |x| want(&x[0]));
    }
}
