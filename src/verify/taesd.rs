//! Tiny autoencoders against diffusers'.

use super::golden::{Comparison, Golden};
use crate::core::DType;
use crate::engines::load;
use crate::models::taesd::{TaesdConfig, decode, encode};
use anyhow::Result;

/// latent -> image; pixels -> latents.
///
/// # Errors
/// A configuration that is not supported, tensors that are missing, a device that fails.
pub fn compare(golden: &Golden) -> Result<Vec<Comparison>> {
    let cfg = TaesdConfig::new(&golden.config)?;
    let (z_shape, z) = golden.image("latent")?;
    let (x_shape, x) = golden.image("pixels")?;

    let mut plan = load(&golden.gpu, golden.dtype, &golden.weights()?, |w| {
        let g = w.graph();
        g.output("image", decode(w, &cfg, g.input("latent", &z_shape, DType::F32)));
        g.output("latents", encode(w, &cfg, g.input("pixels", &x_shape, DType::F32)));
    })?;
    plan.write("latent", &z)?;
    plan.write("pixels", &x)?;
    plan.run()?;
    Ok(vec![
        golden.compare_image("image", &plan.read("image")?)?,
        golden.compare_image("latents", &plan.read("latents")?)?,
    ])
}
