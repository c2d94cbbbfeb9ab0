//! UNets against diffusers'.

use super::golden::{Comparison, Golden};
use crate::core::{DType, Graph, Plan, Store, Weights};
use crate::models::unet::{Inputs, UnetConfig, unet};
use anyhow::Result;

/// sample, timestep, context -> out.
///
/// # Errors
/// A configuration that is not supported, tensors that are missing, a device that fails.
pub fn compare(golden: &Golden) -> Result<Vec<Comparison>> {
    let cfg = UnetConfig::new(&golden.config)?;
    let (shape, x) = golden.image("sample")?;
    let (context_shape, context) = golden.tensor::<3>("context")?;
    let (_, timestep) = golden.tensor::<1>("timestep")?;

    let g = Graph::new(golden.gpu.caps());
    let w = Weights::new(&g, DType::F32);
    let input = |name: &str, shape: &[usize]| g.input(name, shape, DType::F32);
    let inputs = Inputs {
        time: input("time", &[timestep.len(), cfg.timestep_width()]),
        latents: input("sample", &shape),
        guidance: None,
        context: input("context", &context_shape),
    };
    g.output("out", unet(&w, &cfg, inputs));
    let mut store = Store::new(&golden.gpu);
    store.load(&golden.weights()?, &w)?;
    let mut plan = Plan::new(&golden.gpu, g, &store)?;
    plan.write("sample", &x)?;
    plan.write("context", &context)?;
    plan.write("time", &cfg.timestep_embedding(&timestep))?;
    plan.run()?;
    Ok(vec![golden.compare_image("out", &plan.read("out")?)?])
}
