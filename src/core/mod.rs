//! The framework: record a [`Graph`], differentiate it, plan it ([`Plan`]), replay it. Only this module says `wgpu::`.
//!
//! Reading order: `graph` (what a node is, and `backward`), `kernel` (from WGSL files to a pipeline's source), `plan` (from
//! nodes to buffers and dispatches), `store` (tensors that outlive a plan), `gpu` (the adapter).

pub mod gpu;
pub mod graph;
pub mod kernel;
pub mod plan;
pub mod profile;
pub mod store;

pub use gpu::{Backend, Caps, Class, Gpu, GpuOptions, OutOfMemory};
pub use graph::{Call, DType, Graph, Init, Tensor};
pub use kernel::Kernel;
pub use plan::{Later, Memory, Plan};
pub use profile::Profile;
pub use store::{Store, Weights};
