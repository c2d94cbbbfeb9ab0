//! A new op outside the crate: WGSL with its contract in the header, a function that records it, its backward right below, and
//! a check of both against f64 and central differences.
//!
//!     cargo run --release --example new_op

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Kernel, Plan, Store, Tensor};

const SOFTPLUS: &str = "// Element by element.
// forward: y = log(1 + exp(x)). backward: dx = dy / (1 + exp(-x)); reads x and dy. All are n numbers, one per thread.
struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3u) {
    // max(x, 0) in front: exp of a large x overflows.
    if id.x < p.n { y[id.x] = max(x[id.x], 0.0) + log(1.0 + exp(-abs(x[id.x]))); }
}
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn backward(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.n { dx[id.x] = dy[id.x] / (1.0 + exp(-x[id.x])); }
}
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
";

/// log(1 + exp(x)), element by element.
fn softplus(g: &Graph, x: Tensor) -> Tensor {
    let y = call(g, "forward", &[x]);
    g.vjp(y, move |g, dy| vec![(x, call(g, "backward", &[x, dy]))]);
    y
}

/// A fresh tensor like the first input.
fn call(g: &Graph, entry: &'static str, inputs: &[Tensor]) -> Tensor {
    let n = inputs[0].len();
    let call = g.call(Kernel::from_wgsl("softplus", entry, SOFTPLUS)).ints([n]).threads(n, 64);
    inputs.iter().fold(call, |call, &t| call.input(t)).output(inputs[0].shape())
}

fn main() -> anyhow::Result<()> {
    let gpu = Gpu::open(&GpuOptions::from_env())?;
    let g = Graph::new(gpu.caps());
    let values = [-30.0f32, -1.5, 0.0, 0.3, 2.0, 90.0];
    let x = g.input("x", &[values.len()], DType::F32);
    let y = softplus(&g, x);
    g.output("y", y);
    g.output("dx", g.backward(g.sum(y, &[0]), &[x])[0]);
    let mut plan = Plan::new(&gpu, g, &Store::new(&gpu))?;
    plan.write("x", &values)?;
    plan.run()?;

    let reference = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    println!("{:>8} {:>12} {:>12} {:>12} {:>12}", "x", "y", "f64", "dx", "differences");
    for ((&x, y), dx) in values.iter().zip(plan.read("y")?).zip(plan.read("dx")?) {
        let x = f64::from(x);
        let slope = (reference(x + 1e-5) - reference(x - 1e-5)) / 2e-5;
        println!("{x:8.2} {y:12.6} {:12.6} {dx:12.6} {slope:12.6}", reference(x));
    }
    Ok(())
}
