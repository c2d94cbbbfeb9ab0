use crate::harness::{Arr, Case};
use kaleid::ops::{Act, Conv, Epilogue};

/// x (N, H, W, C), w (O, KH, KW, C).
pub fn conv(x: &Arr, w: &Arr, stride: usize, [top, bottom, left, right]: [usize; 4]) -> Arr {
    let (&[n, h, wide, c], &[o, kh, kw, _]) = (&x.shape[..], &w.shape[..]) else { panic!("rank 4") };
    let (oh, ow) = ((h + top + bottom - kh) / stride + 1, (wide + left + right - kw) / stride + 1);
    Arr::from_fn(&[n, oh, ow, o], |[n, oy, ox, o]| {
        let mut sum = 0.0;
        for ky in 0..kh {
            for kx in 0..kw {
                let (y, x_at) = ((oy * stride + ky).wrapping_sub(top), (ox * stride + kx).wrapping_sub(left));
                if y < h && x_at < wide {
                    sum += (0..c).map(|c| x.at([n, y, x_at, c]) * w.at([o, ky, kx, c])).sum::<f64>();
                }
            }
        }
        sum
    })
}

fn check(x: [usize; 4], w: [usize; 4], stride: usize, padding: [usize; 4]) {
    let options = Conv { kernel: [w[1], w[2]], stride, padding, epilogue: Epilogue::default() };
    Case::new("conv2d", &[&x, &w])
        .check(|g, t| g.conv2d(t[0], t[1], options), |t| conv(&t[0], &t[1], stride, padding));
}

#[test]
fn conv2d_of_any_stride_and_padding() {
    check([2, 5, 6, 4], [8, 3, 3, 4], 1, [1; 4]);
    check([1, 7, 6, 4], [4, 3, 3, 4], 2, [1; 4]);
    check([2, 6, 7, 8], [4, 3, 3, 8], 2, [0, 1, 0, 1]);
    check([1, 9, 8, 4], [4, 3, 2, 4], 3, [2, 0, 1, 1]);
    check([1, 8, 8, 4], [4, 4, 4, 4], 4, [0; 4]);
    check([1, 7, 5, 4], [4, 7, 7, 4], 2, [3; 4]);
}

#[test]
fn conv2d_of_one_by_one_kernels() {
    check([2, 3, 5, 7], [9, 1, 1, 7], 1, [0; 4]);
    check([2, 5, 4, 4], [8, 1, 1, 4], 2, [0; 4]);
    check([1, 1, 1, 1], [1, 1, 1, 1], 1, [0; 4]);
}

#[test]
fn conv2d_of_channels_that_are_no_multiples_of_four() {
    check([2, 5, 5, 3], [6, 3, 3, 3], 1, [1; 4]);
    check([1, 6, 6, 5], [3, 3, 3, 5], 2, [1; 4]);
}

#[test]
fn conv2d_larger_than_one_tile() {
    check([2, 13, 11, 36], [68, 3, 3, 36], 1, [1; 4]);
}

#[test]
fn conv2d_whose_sum_is_cut_into_pieces() {
    check([1, 4, 4, 128], [4, 3, 3, 128], 1, [1; 4]);
}

#[test]
fn conv2d_adds_bias_activation_and_residual() {
    let shapes: [&[usize]; 4] = [&[2, 4, 5, 4], &[8, 3, 3, 4], &[8], &[2, 4, 5, 8]];
    Case::new("conv2d", &shapes).tolerance(5e-5).check(
        |g, t| {
            let epilogue = Epilogue { bias: Some(t[2]), act: Act::Silu, residual: Some(t[3]) };
            g.conv2d(t[0], t[1], Conv { epilogue, ..Conv::same(3) })
        },
        |t| {
            let y = conv(&t[0], &t[1], 1, [1; 4]);
            Arr::from_fn(&y.shape, |at| {
                let z = y.at(at) + t[2].data[at[3]];
                z / (1.0 + (-z).exp()) + t[3].at(at)
            })
        },
    );
}

#[test]
fn gradients_of_conv2d_can_be_differentiated() {
    // Of the squared input gradient of sum(conv(x, w) r), with respect to w.
    let case = Case::new("conv2d", &[&[1, 4, 4, 4], &[4, 3, 3, 4], &[1, 2, 2, 4]])
        .gradients(&[1, 2])
        .tolerance(5e-5);
    case.check(
        |g, t| {
            let y = g.conv2d(t[0], t[1], Conv::strided(3, 2));
            let loss = g.sum(g.mul(y, t[2]), &[0, 1, 2, 3]);
            let dx = g.backward(loss, &[t[0]])[0];
            g.mul(dx, dx)
        },
        |t| {
            Arr::from_fn(&[1, 4, 4, 4], |[_, y, x, c]| {
                let mut sum = 0.0;
                for (oy, ox, ky, kx) in (0..36).map(|i| (i / 18, i / 9 % 2, i / 3 % 3, i % 3)) {
                    if oy * 2 + ky == y + 1 && ox * 2 + kx == x + 1 {
                        sum += (0..4).map(|o| t[2].at([0, oy, ox, o]) * t[1].at([o, ky, kx, c])).sum::<f64>();
                    }
                }
                sum * sum
            })
        },
    );
}
