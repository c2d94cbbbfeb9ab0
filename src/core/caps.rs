//! What a device can do, as far as the choice of kernels depends on it.

use super::arch::Arch;
use super::dtype::DType;
use std::fmt;

/// Kinds of device that like different kernels; every number that depends on it stands in `ops/tuning.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A CPU driver: few, small workgroups, large register tiles.
    Software,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A graphics card.
    Discrete,
}

impl Class {
    /// Rough sustained rate in GFLOP/s, only used to split work into submits of bounded length.
    pub(crate) fn gflops(self) -> f64 {
        match self {
            Class::Software => 15.0,
            Class::Integrated => 200.0,
            Class::Discrete => 2000.0,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Class::Software => "software",
            Class::Integrated => "integrated",
            Class::Discrete => "discrete",
        })
    }
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Name of the adapter and its backend, for reports.
    pub adapter: String,
    /// Kind of device.
    pub class: Class,
    /// Whose device it is.
    pub arch: Arch,
    /// Fewest and most threads that run together.
    pub subgroup: [u32; 2],
    /// f16 arithmetic and storage in shaders. Reported by `kaleid info`; no kernel uses it, and no device is opened with it.
    pub f16: bool,
    /// Subgroup operations; reported only, as `f16`.
    pub subgroups: bool,
    /// Timestamps between dispatches, for profiles.
    pub timestamps: bool,
    /// Compiled pipelines can be kept on disk by us.
    pub pipeline_cache: bool,
    /// Pipelines can be compiled in several threads. Over GL they cannot: a thread waits a second for the context, then panics.
    pub parallel_compile: bool,
    /// Largest number of invocations in a workgroup.
    pub invocations: usize,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: usize,
    /// Largest bytes of one buffer.
    pub buffer_bytes: u64,
    /// Largest bytes of a buffer that a kernel can see.
    pub binding_bytes: u64,
    /// Buffers that one kernel can see.
    pub bindings: usize,
    /// The tile of all matrix products, for `kaleid bench --tune`; nothing for the best that is known for this class.
    pub tile: Option<[usize; 5]>,
}

impl Caps {
    /// What a model's matrices are kept as here: on a CPU, half precision only costs conversions.
    pub fn weights(&self) -> DType {
        if self.class == Class::Software { DType::F32 } else { DType::F16 }
    }

    /// A device with WebGPU's guaranteed limits, for tools that look at kernels without running them.
    pub fn nominal(class: Class, arch: Arch) -> Self {
        let (limits, features) = (wgpu::Limits::default(), wgpu::Features::empty());
        Self::new(format!("nominal {class} ({arch})"), (class, arch), &limits, features)
    }

    /// A name and a device of each kind that gets kernels of its own, for tools that print every variant.
    pub fn kinds() -> [(&'static str, Caps); 5] {
        [
            ("software_old", Caps::nominal(Class::Software, Arch::Llvm(15))),
            ("software", Caps::nominal(Class::Software, Arch::Llvm(22))),
            ("integrated", Caps::nominal(Class::Integrated, Arch::Other)),
            ("discrete", Caps::nominal(Class::Discrete, Arch::Other)),
            ("nvidia_amd", Caps::nominal(Class::Discrete, Arch::Nvidia)),
        ]
    }

    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let name = format!("{} ({}, {})", info.name, info.backend, info.driver_info).replace(", )", ")");
        let class = match info.device_type {
            _ if is_software(&info) => Class::Software,
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => Class::Discrete,
            _ => Class::Integrated,
        };
        let parallel_compile = info.backend != wgpu::Backend::Gl;
        let subgroup = [info.subgroup_min_size, info.subgroup_max_size];
        let kind = (class, Arch::of(&info));
        Caps { parallel_compile, subgroup, ..Self::new(name, kind, &adapter.limits(), adapter.features()) }
    }

    fn new(
        adapter: String,
        (class, arch): (Class, Arch),
        limits: &wgpu::Limits,
        features: wgpu::Features,
    ) -> Self {
        Caps {
            adapter,
            class,
            arch,
            subgroup: [0; 2],
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
            parallel_compile: true,
            invocations: limits.max_compute_invocations_per_workgroup as usize,
            workgroup_bytes: limits.max_compute_workgroup_storage_size as usize,
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            bindings: limits.max_storage_buffers_per_shader_stage as usize,
            tile: None,
        }
    }
}

/// GL drivers report software renderers as unknown devices: their names tell.
fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu
        || ["llvmpipe", "swiftshader", "softpipe", "basic render"].iter().any(|s| name.contains(s))
}
