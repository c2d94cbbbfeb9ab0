//! The ops: methods on [`crate::core::Graph`] named after torch's functions, each with its backward right below the call.
//!
//! **Images are (N, H, W, C).** Token sequences are (B, T, C). Weights keep torch's orientation, (out, in), except those of convolutions:
//! torch's (O, I, H, W) in files is (O, H, W, I) on the device.

mod act;
mod attention;
mod augment;
mod conv;
mod coop;
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
mod tile;
mod tuning;

pub use act::Act;
pub use attention::Attention;
pub use conv::Conv;
pub use matmul::{Epilogue, Matmul};
pub use norm::Normalised;
pub use optim::{Adam, Sgd};
pub use tile::{tile_candidates, tiles};
