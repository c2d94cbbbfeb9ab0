//! The framework: record a [`Graph`], differentiate it, plan it ([`Plan`]), replay it. Only this module says `wgpu::`.
//!
//! Reading order:
//! 1. Recording: `graph` (what a node is), `call` (one kernel call), `backward` (the gradient, appended to the same list).
//! 2. `kernel`: from WGSL files to the source of a pipeline.
//! 3. `layout`: the planner. Dead code, liveness, shared buffers; all on the host.
//! 4. `plan` and `steps`: from nodes to buffers and dispatches. `store`: tensors that outlive a plan. `scratch`: what plans share.
//! 5. The device: `adapter` (choosing one), `caps`, `arch` and `coop` (what it can do), `gpu`, `pipeline`, `download`.

mod adapter;
mod arch;
mod backward;
mod call;
mod caps;
mod coop;
mod download;
mod dtype;
mod gpu;
mod graph;
mod kernel;
mod layout;
mod pipeline;
pub mod plan;
mod profile;
mod scratch;
mod steps;
mod store;
mod tensor;

pub use adapter::{Backend, GpuOptions};
pub use arch::Arch;
pub use call::Call;
pub use caps::{Caps, Class, Kernels};
pub use coop::Coop;
pub use download::Later;
pub use dtype::DType;
pub use gpu::{Gpu, OutOfMemory};
pub(crate) use graph::Source;
pub use graph::{Graph, Init};
pub use kernel::Kernel;
pub use layout::{Dispatch, Memory, Needs, buffers, dispatches, needs};
pub use plan::Plan;
pub use profile::Profile;
pub use scratch::Scratch;
pub use steps::compile_each;
pub(crate) use store::torch_shape;
pub use store::{Param, Store, Weights};
pub use tensor::Tensor;

/// The environment variable `DEBUG`. 1: plan summaries; 2: `--profile` as well; 3: every WGSL source as well.
fn debug_level() -> u32 {
    static LEVEL: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| std::env::var("DEBUG").ok().and_then(|v| v.parse().ok()).unwrap_or(0))
}
