//! What a device can do, as far as the choice of kernels depends on it.

use super::arch::Arch;
use super::coop::{self, Coop};
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

/// Which kernels may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernels {
    /// Those that need no more than WebGPU's core.
    Plain,
    /// Also those for what an adapter has beyond it, once they have passed a test on it.
    #[default]
    Tested,
    /// Also on adapters that are known for mistakes: for tests of the kernels themselves.
    All,
}

impl Class {
    /// What a slow device of this kind does in a second, in operations and bytes: until it is measured.
    pub(crate) fn rate(self) -> f64 {
        match self {
            Class::Software => 50e9,
            Class::Integrated => 200e9,
            Class::Discrete => 2000e9,
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
    /// f16 arithmetic and storage in shaders. Only kernels for matrix units use it.
    pub f16: bool,
    /// Shapes of matrix units that the adapter lists, in words.
    pub matrices: Vec<String>,
    /// The matrix units that kernels use.
    pub coop: Option<Coop>,
    /// Why they use none.
    pub no_coop: String,
    /// Subgroup operations. Reported by `kaleid info`; no kernel uses them.
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
    /// Most bytes that a model may take, where a person set a limit.
    pub memory: Option<u64>,
    /// The tile of all matrix products, for `kaleid bench --tune`; nothing for the best that is known for this class.
    pub tile: Option<[usize; 5]>,
}

impl Caps {
    /// What a model's matrices and activations are kept as here: on a CPU, half precision only costs conversions.
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

    /// Those with matrix units, whose kernels need more than WebGPU's core.
    pub fn kinds_with_coop() -> [(&'static str, Caps); 3] {
        let kind = |arch, size, subgroup| Caps {
            coop: Some(Coop { size, subgroup }),
            workgroup_bytes: 32 << 10, // the least that such devices have
            ..Caps::nominal(Class::Discrete, arch)
        };
        [
            ("coop16", kind(Arch::Nvidia, 16, 32)),
            ("coop16_wave64", kind(Arch::Rdna(3), 16, 64)),
            ("coop8", Caps { class: Class::Integrated, ..kind(Arch::Apple, 8, 32) }),
        ]
    }

    /// What an adapter can do. Its matrix units are named as they will be used, once they have passed their test.
    pub(super) fn of(adapter: &wgpu::Adapter, kernels: Kernels) -> Self {
        let info = adapter.get_info();
        let name = format!("{} ({}, {})", info.name, info.backend, info.driver_info).replace(", )", ")");
        let class = match info.device_type {
            _ if is_software(&info) => Class::Software,
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => Class::Discrete,
            _ => Class::Integrated,
        };
        let parallel_compile = info.backend != wgpu::Backend::Gl;
        let subgroup = [info.subgroup_min_size, info.subgroup_max_size];
        let arch = Arch::of(&info);
        let matrices = matrices(adapter);
        let sizes: Vec<usize> = matrices.iter().filter_map(usable).collect();
        let caps = Self::new(name, (class, arch), &adapter.limits(), adapter.features());
        let coop = match kernels {
            Kernels::Plain => Err("turned off".into()),
            _ if !caps.f16 => Err("no f16 in shaders".into()),
            _ => coop::choose(
                &sizes,
                class == Class::Software,
                arch,
                &info.driver,
                subgroup,
                kernels == Kernels::All,
            ),
        };
        let (coop, no_coop) = match coop {
            Ok(coop) => (Some(coop), String::new()),
            Err(why) => (None, why),
        };
        let matrices = matrices.iter().map(words).collect();
        Caps { parallel_compile, subgroup, matrices, coop, no_coop, ..caps }
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
            matrices: vec![],
            coop: None,
            no_coop: String::new(),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
            parallel_compile: true,
            invocations: limits.max_compute_invocations_per_workgroup as usize,
            workgroup_bytes: limits.max_compute_workgroup_storage_size as usize,
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            bindings: limits.max_storage_buffers_per_shader_stage as usize,
            memory: None,
            tile: None,
        }
    }
}

type Matrices = wgpu::CooperativeMatrixProperties;

/// The shapes of matrix units that an adapter lists, asked for only where it says that it has any.
fn matrices(adapter: &wgpu::Adapter) -> Vec<Matrices> {
    match adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        true => adapter.cooperative_matrix_properties(),
        false => vec![],
    }
}

/// The size of a square shape of f16 numbers with f32 sums: naga knows no others.
fn usable(m: &Matrices) -> Option<usize> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let square = m.m_size == m.n_size && m.n_size == m.k_size && [8, 16].contains(&m.m_size);
    (square && m.ab_type == F16 && m.cr_type == F32).then_some(m.m_size as usize)
}

fn words(m: &Matrices) -> String {
    let (ab, cr) = (format!("{:?}", m.ab_type).to_lowercase(), format!("{:?}", m.cr_type).to_lowercase());
    format!("{}x{}x{} {ab} -> {cr}", m.m_size, m.n_size, m.k_size)
}

/// GL drivers report software renderers as unknown devices: their names tell.
fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu
        || ["llvmpipe", "swiftshader", "softpipe", "basic render"].iter().any(|s| name.contains(s))
}
