use crate::harness::{Arr, Case};
use kaleid::ops::Attention;

/// softmax(scale q k^T) v for q (B, Tq, H, D), k and v (B, Tk, Hk, D).
pub fn attention(q: &Arr, k: &Arr, v: &Arr, scale: f64, causal: bool) -> Arr {
    let [[_, tq, h, d], [_, tk, hk, _]] = [q, k].map(|a| <[usize; 4]>::try_from(&a.shape[..]).unwrap());
    let mut y = Arr::from_fn(&q.shape, |_| 0.0);
    for row in 0..q.data.len() / d {
        let (b, i, head) = (row / h / tq, row / h % tq, row % h);
        let other = |j: usize, c: usize| [b, j, head / (h / hk), c];
        let keys = if causal { tk.min(i + 1) } else { tk };
        let dot = |j| (0..d).map(|c| q.data[row * d + c] * k.at(other(j, c))).sum::<f64>();
        let scores: Vec<f64> = (0..keys).map(|j| scale * dot(j)).collect();
        let max = scores.iter().fold(f64::MIN, |m, &s| m.max(s));
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        for c in 0..d {
            let weighted = scores.iter().enumerate().map(|(j, s)| (s - max).exp() * v.at(other(j, c)));
            y.data[row * d + c] = weighted.sum::<f64>() / sum;
        }
    }
    y
}

fn check([b, tq, tk, h, hk, d]: [usize; 6], causal: bool) {
    let (q, kv) = ([b, tq, h, d], [b, tk, hk, d]);
    Case::new("attention", &[&q, &kv, &kv]).check(
        |g, x| g.attention(x[0], x[1], x[2], Attention { causal, ..Default::default() }),
        |x| attention(&x[0], &x[1], &x[2], 1.0 / (d as f64).sqrt(), causal),
    );
}

/// Widths that take different kernels: one thread a row, several, and those whose columns do not divide evenly.
#[test]
fn heads_of_every_width() {
    for d in [1, 7, 40, 64, 88, 512] {
        check([1, 9, 11, 2, 2, d], false);
    }
}

#[test]
fn lengths_that_divide_nothing_batches_and_causal_masks() {
    for [b, tq, tk] in [[2, 1, 1], [1, 1, 37], [3, 37, 2], [2, 70, 13], [1, 5, 130]] {
        check([b, tq, tk, 3, 3, 8], false);
        check([b, tq, tk, 3, 3, 8], true);
    }
    check([1, 33, 33, 2, 2, 160], true);
}

#[test]
fn gradients_can_be_differentiated_again() {
    let sizes = [[1, 3, 2, 4], [1, 2, 1, 4], [1, 2, 1, 4]];
    for i in 0..3 {
        Case::new("attention", &[&sizes[0], &sizes[1], &sizes[2]]).check_second(
            i,
            |g, x| g.attention(x[0], x[1], x[2], Attention::default()),
            |x| attention(&x[0], &x[1], &x[2], 0.5, false),
        );
    }
}

#[test]
fn grouped_heads_share_keys_and_values() {
    check([2, 10, 7, 6, 2, 16], false);
    check([1, 10, 10, 4, 1, 64], true);
}

#[test]
fn large_scores_do_not_overflow_and_the_scale_is_free() {
    Case::new("attention", &[&[1, 6, 2, 8], &[1, 9, 2, 8], &[1, 9, 2, 8]])
        .range(-30.0, 30.0)
        .forward_only()
        .tolerance(2e-4)
        .check(
            |g, x| g.attention(x[0], x[1], x[2], Attention { scale: Some(0.5), causal: false }),
            |x| attention(&x[0], &x[1], &x[2], 0.5, false),
        );
}

#[test]
fn rope_turns_pairs_of_columns_by_the_angle_of_their_token() {
    for [b, t, h, d] in [[2, 3, 2, 8], [1, 5, 3, 6], [1, 1, 1, 2]] {
        let table =
            |f: fn(f64) -> f64| Arr::from_fn(&[t, d / 2], |[_, _, i, c]| f(i as f64 + 0.3 * c as f64));
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let f32s = |a: &Arr| a.data.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let half = d / 2;
        Case::new("rope", &[&[b, t, h, d]]).check(
            |g, x| g.rope(x[0], g.constant(&[t, half], &f32s(&cos)), g.constant(&[t, half], &f32s(&sin))),
            |x| {
                Arr::from_fn(&x[0].shape, |[b, i, h, c]| {
                    let angle = [0, 0, i, c % half];
                    let other = x[0].at([b, i, h, (c + half) % d]) * if c < half { -1.0 } else { 1.0 };
                    x[0].at([b, i, h, c]) * cos.at(angle) + other * sin.at(angle)
                })
            },
        );
    }
}
