use crate::harness::{Arr, Case};

const SHAPES: [&[usize]; 5] = [&[2, 7, 6, 5], &[1, 8, 9, 4], &[1, 3, 3, 1], &[1, 11, 4, 8], &[3, 2, 2, 12]];
/// Kernel, stride, padding.
const WINDOWS: [[usize; 3]; 6] = [[2, 2, 0], [3, 2, 1], [3, 1, 1], [2, 1, 0], [1, 3, 0], [2, 3, 1]];

/// Folds each window; what lies outside the image is given as `outside`.
pub fn pool(
    x: &Arr,
    [kernel, stride, padding]: [usize; 3],
    outside: f64,
    fold: impl Fn(f64, f64) -> f64 + Copy,
) -> Arr {
    let (h, w) = (x.shape[1], x.shape[2]);
    let size = |n: usize| (n + 2 * padding - kernel) / stride + 1;
    Arr::from_fn(&[x.shape[0], size(h), size(w), x.shape[3]], |[n, oy, ox, c]| {
        let at = |k: usize| {
            let (y, x_) = (oy * stride + k / kernel, ox * stride + k % kernel);
            let inside = y >= padding && y < h + padding && x_ >= padding && x_ < w + padding;
            if inside { x.at([n, y - padding, x_ - padding, c]) } else { outside }
        };
        (0..kernel * kernel).map(at).reduce(fold).unwrap()
    })
}

#[test]
fn pooling_takes_any_window() {
    for s in SHAPES {
        for w in WINDOWS {
            let [k, stride, padding] = w;
            Case::new("max_pool2d", &[s])
                .check(|g, x| g.max_pool2d(x[0], k, stride, padding), |x| pool(&x[0], w, f64::MIN, f64::max));
            Case::new("avg_pool2d", &[s]).check(
                |g, x| g.avg_pool2d(x[0], k, stride, padding),
                |x| pool(&x[0], w, 0.0, |a, b| a + b).map(|v| v / (k * k) as f64),
            );
        }
    }
}

#[test]
fn pooling_and_upsampling_can_be_differentiated_twice() {
    let square = |x: &Arr| x.map(|v| v * v);
    Case::new("max_pool2d", &[&[1, 5, 5, 2]]).check_second(
        0,
        |g, x| {
            let y = g.max_pool2d(x[0], 3, 2, 1);
            g.mul(y, y)
        },
        |x| square(&pool(&x[0], [3, 2, 1], f64::MIN, f64::max)),
    );
    Case::new("avg_pool2d", &[&[1, 5, 5, 2]]).check_second(
        0,
        |g, x| {
            let y = g.avg_pool2d(x[0], 3, 2, 1);
            g.mul(y, y)
        },
        |x| square(&pool(&x[0], [3, 2, 1], 0.0, |a, b| a + b).map(|v| v / 9.0)),
    );
    Case::new("upsample_nearest", &[&[1, 2, 3, 2]]).check_second(
        0,
        |g, x| {
            let y = g.upsample_nearest(x[0], 5, 6);
            g.mul(y, y)
        },
        |x| square(&nearest(&x[0], 5, 6)),
    );
}

pub fn nearest(x: &Arr, oh: usize, ow: usize) -> Arr {
    let source =
        |i: usize, size: usize, out: usize| ((i as f32 * (size as f32 / out as f32)) as usize).min(size - 1);
    Arr::from_fn(&[x.shape[0], oh, ow, x.shape[3]], |[n, y, x_, c]| {
        x.at([n, source(y, x.shape[1], oh), source(x_, x.shape[2], ow), c])
    })
}

#[test]
fn upsample_nearest_takes_any_ratio() {
    for s in SHAPES {
        let (h, w) = (s[1], s[2]);
        for (oh, ow) in [(2 * h, 2 * w), (3 * h + 1, w), (h, 2 * w - 1), (1, 1), (h.div_ceil(2), 40)] {
            Case::new("upsample_nearest", &[s])
                .check(|g, x| g.upsample_nearest(x[0], oh, ow), |x| nearest(&x[0], oh, ow));
        }
    }
}
