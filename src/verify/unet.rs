//! UNets against diffusers'.

use super::golden::{Comparison, Golden};
use crate::core::DType;
use crate::engines::load;
use crate::models::unet::{Inputs, UnetConfig, keys_and_values, unet};
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

    let mut plan = load(&golden.gpu, golden.dtype, &golden.weights()?, |w| {
        let input = |name: &str, shape: &[usize]| w.graph().input(name, shape, DType::F32);
        let inputs = Inputs {
            time: input("time", &[timestep.len(), cfg.timestep_width()]),
            latents: input("sample", &shape),
            guidance: None,
            context: keys_and_values(w, &cfg, input("context", &context_shape)),
        };
        w.graph().output("out", unet(w, &cfg, inputs));
    })?;
    plan.write("sample", &x)?;
    plan.write("context", &context)?;
    plan.write("time", &cfg.timestep_embedding(&timestep))?;
    plan.run()?;
    Ok(vec![golden.compare_image("out", &plan.read("out")?)?])
}
