//! Gradients are nodes of the same graph, so they can be differentiated again: the force in a chain of springs, and its stiffness
//! against a push at one place.
//!
//!     cargo run --release --example second_derivative

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store};

fn main() -> anyhow::Result<()> {
    let gpu = Gpu::open(&GpuOptions::from_env())?;
    let g = Graph::new(gpu.caps());
    let x = g.input("x", &[6], DType::F32);
    let v = g.input("v", &[6], DType::F32);

    // E = sum tanh(d_i)^2, d_i = x_{i+1} - x_i
    let stretch = g.tanh(g.sub(g.slice(x, 0, 1, 5), g.slice(x, 0, 0, 5)));
    let energy = g.sum(g.mul(stretch, stretch), &[0]);
    let force = g.backward(energy, &[x])[0];
    // The Hessian times v is the gradient of force . v: no matrix is ever made.
    let hv = g.backward(g.sum(g.mul(force, v), &[0]), &[x])[0];
    for (name, t) in [("energy", energy), ("dE/dx", force), ("H v", hv)] {
        g.output(name, t);
    }

    let mut plan = Plan::new(&gpu, g, &Store::new(&gpu))?;
    plan.write("x", &[0.0, 0.1, 0.4, 0.2, 0.2, -0.3])?;
    plan.write("v", &[0.0, 0.0, 1.0, 0.0, 0.0, 0.0])?;
    plan.run()?;
    for name in ["energy", "dE/dx", "H v"] {
        println!("{name:>7}: {:.4?}", plan.read(name)?);
    }
    Ok(())
}
