//! Autoencoders against diffusers'.

use super::golden::{Comparison, Golden};
use crate::core::DType;
use crate::engines::load;
use crate::models::vae::{VaeConfig, decode, encode, modern_names};
use anyhow::Result;

/// latent -> image; pixels -> mean, logvar.
///
/// # Errors
/// A configuration that is not supported, tensors that are missing, a device that fails.
pub fn compare(golden: &Golden) -> Result<Vec<Comparison>> {
    let cfg = VaeConfig::new(&golden.config)?;
    let (z_shape, z) = golden.image("latent")?;
    let (x_shape, x) = golden.image("pixels")?;

    let mut plan = load(&golden.gpu, golden.dtype, &modern_names(golden.weights()?), |w| {
        let g = w.graph();
        let image = decode(w, &cfg, g.input("latent", &z_shape, DType::F32));
        let (mean, logvar) = encode(w, &cfg, g.input("pixels", &x_shape, DType::F32));
        for (name, t) in [("image", image), ("mean", mean), ("logvar", logvar)] {
            g.output(name, t);
        }
    })?;
    plan.write("latent", &z)?;
    plan.write("pixels", &x)?;
    plan.run()?;
    let logvar: Vec<f32> = plan.read("logvar")?.iter().map(|v| v.clamp(-30.0, 20.0)).collect();
    Ok(vec![
        golden.compare_image("image", &plan.read("image")?)?,
        golden.compare_image("mean", &plan.read("mean")?)?,
        golden.compare_image("logvar", &logvar)?,
    ])
}
