//! The ops: methods on [`crate::core::Graph`] named after torch's functions, each with its backward right below the call.
//!
//! **Images are (N, H, W, C).** Token sequences are (B, T, C). Weights keep torch's orientation.

mod attention;
mod augment;
mod conv;
mod elementwise;
mod gather;
mod half;
mod loss;
mod matmul;
mod norm;
mod optim;
mod pool;
mod random;
mod reduce;
mod shape;

pub use attention::Attention;
pub use conv::Conv;
pub use matmul::{Epilogue, Matmul, tile_candidates, tiles};
pub use norm::BatchNorm;
pub use optim::{Adam, Sgd};

/// An activation that other kernels can apply to what they write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// x
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// x sigmoid(x)
    Silu,
    /// x Phi(x), the exact form
    Gelu,
    /// x sigmoid(1.702 x), of OpenAI's CLIP
    QuickGelu,
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// tanh(x)
    Tanh,
}

impl Act {
    /// The part file that defines it.
    pub(crate) fn part(self) -> &'static str {
        match self {
            Act::None => "act/none",
            Act::Relu => "act/relu",
            Act::Silu => "act/silu",
            Act::Gelu => "act/gelu",
            Act::QuickGelu => "act/quick_gelu",
            Act::Sigmoid => "act/sigmoid",
            Act::Tanh => "act/tanh",
        }
    }
}
