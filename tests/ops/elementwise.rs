use crate::harness::{Arr, Case};
use kaleid::ops::Act;

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// Phi(x) by its series around 0, exact to f64 for the range of the tests.
fn normal_integral(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for k in 1..200 {
        term *= x * x / (2 * k + 1) as f64;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

#[test]
fn activations_can_be_differentiated_twice() {
    let case = |name| Case::new(name, &[&[2, 5]]).range(-3.0, 3.0).tolerance(5e-5);
    case("silu").check_second(0, |g, x| g.silu(x[0]), |x| x[0].map(|v| v * sigmoid(v)));
    case("gelu").check_second(0, |g, x| g.gelu(x[0]), |x| x[0].map(|v| v * normal_integral(v)));
    case("quick_gelu").check_second(0, |g, x| g.quick_gelu(x[0]), |x| x[0].map(|v| v * sigmoid(1.702 * v)));
    case("gelu_tanh").check_second(0, |g, x| g.gelu_tanh(x[0]), |x| x[0].map(gelu_tanh));
    case("sigmoid").check_second(0, |g, x| g.sigmoid(x[0]), |x| x[0].map(sigmoid));
    case("tanh").check_second(0, |g, x| g.tanh(x[0]), |x| x[0].map(f64::tanh));
}

#[test]
fn activations_equal_their_formulas_and_derivatives() {
    let shapes: [&[usize]; 4] = [&[2, 3, 37], &[1], &[5], &[1, 4, 4, 8]];
    for s in shapes {
        let case = |name| Case::new(name, &[s]).range(-4.0, 4.0);
        case("silu").check(|g, x| g.silu(x[0]), |x| x[0].map(|v| v * sigmoid(v)));
        case("gelu").check(|g, x| g.gelu(x[0]), |x| x[0].map(|v| v * normal_integral(v)));
        case("quick_gelu").check(|g, x| g.quick_gelu(x[0]), |x| x[0].map(|v| v * sigmoid(1.702 * v)));
        case("gelu_tanh").check(|g, x| g.gelu_tanh(x[0]), |x| x[0].map(gelu_tanh));
        case("relu").check(|g, x| g.relu(x[0]), |x| x[0].map(|v| v.max(0.0)));
        case("sigmoid").check(|g, x| g.sigmoid(x[0]), |x| x[0].map(sigmoid));
        case("tanh").check(|g, x| g.tanh(x[0]), |x| x[0].map(f64::tanh));
        case("exp").check(|g, x| g.exp(x[0]), |x| x[0].map(f64::exp));
        case("log").range(0.1, 4.0).check(|g, x| g.log(x[0]), |x| x[0].map(f64::ln));
        case("sqrt").range(0.1, 4.0).check(|g, x| g.sqrt(x[0]), |x| x[0].map(f64::sqrt));
        case("scale").check(|g, x| g.scale(x[0], -2.5), |x| x[0].map(|v| -2.5 * v));
        case("add_scalar").check(|g, x| g.add_scalar(x[0], 0.75), |x| x[0].map(|v| v + 0.75));
        case("act").check(|g, x| g.act(x[0], Act::Tanh), |x| x[0].map(f64::tanh));
    }
}

#[test]
fn tanh_of_large_numbers_is_one_and_not_nan() {
    Case::new("tanh", &[&[9]])
        .range(50.0, 100.0)
        .forward_only()
        .check(|g, x| g.tanh(x[0]), |x| x[0].map(f64::tanh));
}

#[test]
fn arithmetic_broadcasts_as_numpy_does() {
    let pairs: [[&[usize]; 2]; 8] = [
        [&[2, 3, 5, 8], &[8]],
        [&[2, 1, 5, 8], &[2, 3, 1, 1]],
        [&[2, 3, 5, 7], &[2, 3, 5, 7]],
        [&[2, 3, 5, 7], &[7]],
        [&[2, 1, 1, 7], &[2, 3, 5, 1]],
        [&[4], &[3, 4]],
        [&[1], &[3, 3]],
        [&[1], &[1]],
    ];
    for pair in pairs {
        let zip = |x: &[Arr], f: fn(f64, f64) -> f64| {
            let rank = x[0].shape.len().max(x[1].shape.len());
            let size = |a: &Arr, i: usize| {
                if i + a.shape.len() < rank { 1 } else { a.shape[i + a.shape.len() - rank] }
            };
            let shape: Vec<usize> = (0..rank).map(|i| size(&x[0], i).max(size(&x[1], i))).collect();
            Arr::from_fn(&shape, |i| f(x[0].at(i), x[1].at(i)))
        };
        Case::new("add", &pair).check(|g, x| g.add(x[0], x[1]), |x| zip(x, |a, b| a + b));
        Case::new("sub", &pair).check(|g, x| g.sub(x[0], x[1]), |x| zip(x, |a, b| a - b));
        Case::new("mul", &pair).check(|g, x| g.mul(x[0], x[1]), |x| zip(x, |a, b| a * b));
        Case::new("less", &pair)
            .forward_only()
            .check(|g, x| g.less(x[0], x[1]), |x| zip(x, |a, b| if a < b { 1.0 } else { 0.0 }));
        Case::new("div", &pair).range(0.5, 3.0).check(|g, x| g.div(x[0], x[1]), |x| zip(x, |a, b| a / b));
    }
}

#[test]
fn expand_repeats_dimensions_of_size_one() {
    Case::new("expand", &[&[3, 1]])
        .check(|g, x| g.expand(x[0], &[2, 3, 5]), |x| Arr::from_fn(&[2, 3, 5], |i| x[0].at(i)));
}

#[test]
fn elementwise_ops_run_on_more_than_65535_workgroups() {
    // 4 numbers a thread, 64 threads a workgroup.
    let n = 65_536 * 256 + 5;
    Case::new("scale", &[&[n]]).forward_only().check(|g, x| g.scale(x[0], 3.0), |x| x[0].map(|v| 3.0 * v));
}

#[test]
fn geglu_gates_one_half_with_the_other() {
    let shapes: [&[usize]; 4] = [&[2, 3, 16], &[5, 6], &[2], &[1, 70, 24]];
    for s in shapes {
        Case::new("geglu", &[s]).range(-4.0, 4.0).check(|g, x| g.geglu(x[0]), |x| geglu(&x[0]));
    }
}

pub fn geglu(x: &Arr) -> Arr {
    let mut shape = x.shape.clone();
    let half = x.shape[x.shape.len() - 1] / 2;
    *shape.last_mut().unwrap() = half;
    let gate = |row: &[f64], i: usize| row[i] * row[half + i] * normal_integral(row[half + i]);
    let rows = x.data.chunks(2 * half);
    Arr::new(&shape, rows.flat_map(|row| (0..half).map(move |i| gate(row, i))).collect())
}
