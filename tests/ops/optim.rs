use crate::harness::{compare, gpu, random};
use kaleid::core::{DType, Graph, Init, Plan, Store, Tensor};
use kaleid::ops::{Adam, Sgd};

const N: usize = 37;

/// Five steps on a parameter whose gradients are random numbers; the parameter after each.
fn steps(record: impl Fn(&Graph, Tensor, Tensor, Tensor, Tensor)) -> Vec<Vec<f32>> {
    let g = Graph::new(gpu().caps());
    let x = g.state("x", &[N], DType::F32, Init::Loaded);
    let [grad, lr, step] =
        [("grad", N), ("lr", 1), ("step", 1)].map(|(name, n)| g.input(name, &[n], DType::F32));
    record(&g, x, grad, lr, step);
    let mut store = Store::new(gpu());
    store.write("x", &[N], &(0..N).map(|i| random(1, i) as f32).collect::<Vec<_>>()).unwrap();
    let mut plan = Plan::new(gpu(), g, &store).unwrap();
    plan.write("lr", &[0.01]).unwrap();
    (0..5)
        .map(|t| {
            plan.write("grad", &(0..N).map(|i| gradient(t, i) as f32).collect::<Vec<_>>()).unwrap();
            plan.write("step", &[t as f32 + 1.0]).unwrap();
            plan.run().unwrap();
            store.read("x").unwrap().1
        })
        .collect()
}

fn gradient(t: usize, i: usize) -> f64 {
    random(7 + t as u64, i)
}

#[test]
fn adam_and_adamw_follow_torch() {
    for decoupled in [false, true] {
        let options = Adam { weight_decay: 0.1, decoupled, ..Default::default() };
        let got = steps(|g, x, grad, lr, step| _ = g.adam(&[(x, grad)], lr, step, options));
        let mut x: Vec<f64> = (0..N).map(|i| random(1, i)).collect();
        let (mut m, mut v) = (vec![0.0; N], vec![0.0; N]);
        for (t, got) in got.iter().enumerate() {
            for i in 0..N {
                let mut d = gradient(t, i);
                if decoupled {
                    x[i] *= 1.0 - 0.01 * 0.1;
                } else {
                    d += 0.1 * x[i];
                }
                m[i] = 0.9 * m[i] + 0.1 * d;
                v[i] = 0.999 * v[i] + 0.001 * d * d;
                let (c1, c2) = (1.0 - 0.9f64.powi(t as i32 + 1), 1.0 - 0.999f64.powi(t as i32 + 1));
                x[i] -= 0.01 / c1 * m[i] / ((v[i] / c2).sqrt() + 1e-8);
            }
            compare("adam", got, &x, 1e-6);
        }
    }
}

#[test]
fn sgd_follows_torch() {
    let options = Sgd { momentum: 0.9, weight_decay: 0.1 };
    let got = steps(|g, x, grad, lr, _| _ = g.sgd(&[(x, grad)], lr, options));
    let mut x: Vec<f64> = (0..N).map(|i| random(1, i)).collect();
    let mut m = vec![0.0; N];
    for (t, got) in got.iter().enumerate() {
        for i in 0..N {
            m[i] = 0.9 * m[i] + gradient(t, i) + 0.1 * x[i];
            x[i] -= 0.01 * m[i];
        }
        compare("sgd", got, &x, 1e-6);
    }
}

#[test]
fn ema_moves_towards_the_value_and_assign_replaces_it() {
    let got = steps(|g, x, grad, lr, _| _ = g.ema(x, grad, lr));
    let mut x: Vec<f64> = (0..N).map(|i| random(1, i)).collect();
    for (t, got) in got.iter().enumerate() {
        (0..N).for_each(|i| x[i] = 0.01 * x[i] + 0.99 * gradient(t, i));
        compare("ema", got, &x, 1e-6);
    }
    let got = steps(|g, x, grad, _, _| _ = g.assign(x, grad));
    compare("assign", &got[4], &(0..N).map(|i| gradient(4, i)).collect::<Vec<_>>(), 1e-7);
}

#[test]
fn clip_grad_norm_scales_only_what_is_too_long() {
    for (max_norm, want) in [(1.0, 1.0 / 5.0), (10.0, 1.0)] {
        let g = Graph::new(gpu().caps());
        let grads = [g.constant(&[2], &[3.0, 0.0]), g.constant(&[1, 1], &[4.0])];
        let (clipped, norm) = g.clip_grad_norm(&grads, max_norm);
        g.output("a", clipped[0]);
        g.output("b", clipped[1]);
        g.output("norm", norm);
        let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
        plan.run().unwrap();
        compare("norm", &plan.read("norm").unwrap(), &[5.0], 1e-6);
        compare("clipped", &plan.read("a").unwrap(), &[3.0 * want, 0.0], 1e-6);
        compare("clipped", &plan.read("b").unwrap(), &[4.0 * want], 1e-6);
    }
}
