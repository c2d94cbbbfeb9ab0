//! Trains a small network to tell two spirals apart.
//!
//!     cargo run --release --example mlp

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Init, Plan, Store};
use kaleid::data::rng::Key;
use kaleid::ops::Adam;

const POINTS: usize = 256;

fn main() -> anyhow::Result<()> {
    let gpu = Gpu::open(&GpuOptions::from_env())?;

    // Recording computes nothing: x -> tanh(W1 x + b1) -> tanh(W2 h + b2) -> W3 h + b3, a loss, its gradients, a step of Adam.
    let g = Graph::new(gpu.caps());
    let x = g.input("x", &[POINTS, 2], DType::F32);
    let labels = g.input("labels", &[POINTS], DType::U32);
    let [lr, step] = ["lr", "step"].map(|name| g.input(name, &[1], DType::F32));
    let mut store = Store::new(&gpu);
    let (mut params, mut h) = (vec![], x);
    for (i, (fan_in, fan_out)) in [(2, 32), (32, 32), (32, 2)].into_iter().enumerate() {
        let w = g.state(&format!("w{i}"), &[fan_out, fan_in], DType::F32, Init::Loaded);
        let b = g.state(&format!("b{i}"), &[fan_out], DType::F32, Init::Zeros);
        let key = Key::new(0, i as u32, "weights");
        let values = (0..w.len() as u32).map(|k| key.normal(k) / (fan_in as f32).sqrt()).collect::<Vec<_>>();
        store.write(&format!("w{i}"), &[fan_out, fan_in], &values)?;
        h = g.linear(if i == 0 { h } else { g.tanh(h) }, w, Some(b));
        params.extend([w, b]);
    }
    let loss = g.cross_entropy(h, labels);
    let grads = g.backward(loss, &params);
    g.adam(&params.into_iter().zip(grads).collect::<Vec<_>>(), lr, step, Adam::default());
    g.output("loss", loss);
    g.output("class", g.argmax(h));

    let mut plan = Plan::new(&gpu, g, &store)?;
    let label = |i: usize| (i % 2) as u32;
    let spiral = |i: usize| {
        let t = 0.3 + 2.7 * i as f32 / POINTS as f32;
        let angle = 2.0 * t + std::f32::consts::PI * label(i) as f32;
        [t * angle.cos(), t * angle.sin()]
    };
    let labels: Vec<u32> = (0..POINTS).map(label).collect();
    plan.write("x", &(0..POINTS).flat_map(spiral).collect::<Vec<_>>())?;
    plan.write_u32("labels", &labels)?;
    plan.write("lr", &[0.01])?;
    for step in 1..=400 {
        plan.write("step", &[step as f32])?;
        plan.run()?;
        if step % 100 == 0 {
            let right = plan.read_u32("class")?.iter().zip(&labels).filter(|(a, b)| a == b).count();
            println!("step {step}: loss {:.4}, {right} of {POINTS} right", plan.read("loss")?[0]);
        }
    }
    Ok(())
}
