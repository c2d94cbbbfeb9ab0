//! The noise that a seed means, by whose generator.

use super::options::Rng;
use crate::data::rng::{CudaNormals, Mt19937};

/// The noise of one image.
pub(super) enum Noise {
    Torch(Box<Mt19937>),
    Cuda(CudaNormals),
}

impl Noise {
    /// After the seed.
    pub fn new(rng: Rng, seed: u64) -> Noise {
        match rng {
            Rng::Torch => Noise::Torch(Box::new(Mt19937::new(seed))),
            Rng::Cuda => Noise::Cuda(CudaNormals::new(seed)),
        }
    }

    /// The next `n` standard normals.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        match self {
            Noise::Torch(generator) => generator.torch_randn(n),
            Noise::Cuda(generator) => generator.torch_randn(n),
        }
    }
}
