//! Times a matrix product, and shows where the time goes.
//!
//!     cargo run --release --example matmul [SIZE]

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store};
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let n = std::env::args().nth(1).map_or(Ok(512), |size| size.parse())?;
    let gpu = Gpu::open(&GpuOptions::from_env())?;
    let g = Graph::new(gpu.caps());
    let a = g.input("a", &[n, n], DType::F32);
    g.output("c", g.matmul(a, a));
    let mut plan = Plan::new(&gpu, g, &Store::new(&gpu))?;
    plan.write("a", &vec![1.0; n * n])?;
    for run in 0..5 {
        let start = Instant::now();
        plan.run()?;
        gpu.wait()?;
        let seconds = start.elapsed().as_secs_f64();
        println!("run {run}: {:.2} ms, {:.1} GFLOP/s", seconds * 1e3, plan.flops() / seconds / 1e9);
    }
    println!("{}", plan.profile()?);
    println!("c[0] = {}, {} expected", plan.read("c")?[0], n);
    Ok(())
}
