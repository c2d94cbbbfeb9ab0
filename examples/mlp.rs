//! Trains a small network to tell two spirals apart.
//!
//!     cargo run --release --example mlp

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store, Weights};
use kaleid::data::checkpoint::Checkpoint;
use kaleid::nn;
use kaleid::ops::Adam;

const POINTS: usize = 256;

fn main() -> anyhow::Result<()> {
    let gpu = Gpu::open(&GpuOptions::from_env())?;

    // Recording computes nothing: three layers, a loss, its gradients, a step of Adam. All are nodes of one list.
    let g = Graph::new(gpu.caps());
    let w = Weights::new(&g, DType::F32);
    let x = g.input("x", &[POINTS, 2], DType::F32);
    let labels = g.input("labels", &[POINTS], DType::U32);
    let h = g.tanh(nn::linear(&w.sub("first"), x, 32));
    let h = g.tanh(nn::linear(&w.sub("second"), h, 32));
    let logits = nn::linear(&w.sub("last"), h, 2);
    let loss = g.cross_entropy(logits, labels);
    let params: Vec<_> = w.params().into_iter().map(|p| p.tensor).collect();
    let updates: Vec<_> = params.iter().copied().zip(g.backward(loss, &params)).collect();
    let step = g.input("step", &[1], DType::F32);
    g.adam(&updates, g.constant(&[1], &[0.01]), step, Adam::default());
    g.output("loss", loss);
    g.output("class", g.argmax(logits));

    // Parameters live in a store, by name; these are drawn from their names. A plan shares buffers and holds the pipelines.
    let mut store = Store::new(&gpu);
    store.load(&Checkpoint::synthetic(), &w.params())?;
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
