//! What holds for graphs and plans, whatever the ops.

use crate::harness::{compare, gpu};
use kaleid::core::{DType, Graph, Kernel, Plan, Store};

#[test]
fn a_second_derivative_is_the_derivative_of_the_first() {
    // y = x^3 by products: y' = 3 x^2, y'' = 6 x
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[5], DType::F32);
    let y = g.mul(g.mul(x, x), x);
    let [d1] = g.backward(g.sum(y, &[0]), &[x])[..] else { unreachable!() };
    let [d2] = g.backward(g.sum(d1, &[0]), &[x])[..] else { unreachable!() };
    g.output("d1", d1);
    g.output("d2", d2);
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    let v = [-2.0f32, -0.5, 0.0, 1.0, 3.0];
    plan.write("x", &v).unwrap();
    plan.run().unwrap();
    compare("y'", &plan.read("d1").unwrap(), &v.map(|v| 3.0 * (v * v) as f64), 1e-6);
    compare("y''", &plan.read("d2").unwrap(), &v.map(|v| 6.0 * v as f64), 1e-6);
}

#[test]
fn gradients_reach_intermediate_tensors_and_add_up_over_uses() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[3], DType::F32);
    let h = g.scale(x, 2.0);
    let y = g.add(g.mul(h, h), h);
    let d = g.backward(g.sum(y, &[0]), &[h, x]);
    g.output("dh", d[0]);
    g.output("dx", d[1]);
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    plan.write("x", &[1.0, 2.0, -3.0]).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.read("dh").unwrap(), [5.0, 9.0, -11.0]);
    assert_eq!(plan.read("dx").unwrap(), [10.0, 18.0, -22.0]);
}

#[test]
fn stop_gradient_stops_it_and_unreached_tensors_get_zeros() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[2], DType::F32);
    let z = g.input("z", &[2], DType::F32);
    let y = g.mul(g.stop_gradient(x), x);
    let d = g.backward(g.sum(y, &[0]), &[x, z]);
    g.output("dx", d[0]);
    g.output("dz", d[1]);
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    plan.write("x", &[3.0, -4.0]).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.read("dx").unwrap(), [3.0, -4.0]);
    assert_eq!(plan.read("dz").unwrap(), [0.0, 0.0]);
}

#[test]
fn a_plan_replayed_with_the_same_inputs_gives_the_same_bits() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[50, 70], DType::F32);
    g.output("y", g.gelu(g.matmul(x, g.constant(&[70, 30], &vec![0.3; 2100]))));
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    let data: Vec<f32> = (0..3500).map(|i| (i as f32).sin()).collect();
    plan.write("x", &data).unwrap();
    plan.run().unwrap();
    let first = plan.read("y").unwrap();
    plan.run().unwrap();
    assert_eq!(first, plan.read("y").unwrap());
}

#[test]
fn dead_code_is_dropped_and_buffers_are_shared() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[1 << 16], DType::F32);
    let mut y = x;
    for _ in 0..10 {
        y = g.silu(y);
        let _dead = g.exp(y);
    }
    g.output("y", y);
    let plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    assert_eq!(plan.dispatches(), 10);
    let memory = plan.memory();
    assert!(memory.activation * 3 <= memory.unshared, "{memory}");
}

#[test]
#[should_panic(expected = "no backward for")]
fn a_missing_backward_panics_when_the_graph_is_built() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[4], DType::F32);
    // A kernel recorded by hand, of which nobody said how gradients flow back.
    let call = g.call(Kernel::new("affine", "main")).input(x).ints([4]).float(2.0).float(0.0);
    let y = call.threads(4, 64).output(&[4]);
    g.backward(g.sum(y, &[0]), &[x]);
}

#[test]
#[should_panic(expected = "do not broadcast")]
fn shapes_that_do_not_fit_panic_where_the_graph_is_built() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[4], DType::F32);
    let y = g.input("y", &[3], DType::F32);
    g.add(x, y);
}

#[test]
fn a_tensor_that_the_adapter_cannot_hold_is_refused_with_a_suggestion() {
    let g = Graph::new(gpu().caps());
    let n = (gpu().caps().binding_bytes / 4 + 1024) as usize;
    let x = g.input("x", &[1], DType::F32);
    g.output("y", g.expand(x, &[n]));
    let error = Plan::new(gpu(), g, &Store::new(gpu())).err().expect("refused");
    let text = format!("{error:#}");
    assert!(text.contains("MiB") && text.contains("smaller"), "{text}");
}

#[test]
fn recompute_gives_the_same_gradients_keeps_less_and_updates_states_once() {
    let run = |recomputed: bool| {
        let g = Graph::new(gpu().caps());
        let w = g.state("w", &[64, 64], DType::F32, kaleid::core::Init::Loaded);
        let input = g.input("x", &[512, 64], DType::F32);
        let layer = move |g: &Graph, x| {
            let count = g.state("count", &[1], DType::F32, kaleid::core::Init::Zeros);
            g.assign(count, g.add_scalar(count, 1.0));
            let h = g.tanh(g.matmul(x, w));
            g.tanh(g.matmul(g.tanh(g.matmul(h, w)), w))
        };
        let mut x = input;
        for _ in 0..4 {
            x = if recomputed { g.recompute(x, layer) } else { layer(&g, x) };
        }
        let loss = g.sum(g.mul(x, x), &[0, 1]);
        for (name, d) in ["dx", "dw"].iter().zip(g.backward(g.reshape(loss, &[1]), &[input, w])) {
            g.output(name, d);
        }
        let mut store = Store::new(gpu());
        let weight: Vec<f32> = (0..4096).map(|i| 0.3 * crate::harness::random(1, i) as f32).collect();
        store.write("w", &[64, 64], &weight).unwrap();
        let mut plan = Plan::new(gpu(), g, &store).unwrap();
        let values: Vec<f32> = (0..512 * 64).map(|i| crate::harness::random(2, i) as f32).collect();
        plan.write("x", &values).unwrap();
        plan.run().unwrap();
        let count = store.read("count").unwrap().1[0];
        (plan.read("dx").unwrap(), plan.read("dw").unwrap(), plan.memory().activation, count)
    };
    let (dx, dw, kept, _) = run(false);
    let (dx2, dw2, less, count) = run(true);
    let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    compare("dx", &dx2, &wide(&dx), 1e-5);
    compare("dw", &dw2, &wide(&dw), 1e-5);
    assert!(less < kept * 2 / 3, "{less} bytes of activations with recompute, {kept} without");
    assert_eq!(count, 4.0);
}

#[test]
fn an_output_from_which_no_gradient_flows_is_computed() {
    let g = Graph::new(gpu().caps());
    let x = g.input("x", &[2], DType::F32);
    g.output("y", g.stop_gradient(g.scale(x, 2.0)));
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    plan.write("x", &[1.0, -3.0]).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.read("y").unwrap(), [2.0, -6.0]);
}
