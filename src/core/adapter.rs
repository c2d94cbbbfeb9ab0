//! Finding the adapters of this machine, and choosing one.

use super::caps::{Caps, Kernels};
use anyhow::{Result, bail};

/// Graphics interface to reach the adapter through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Linux, Windows, Android.
    Vulkan,
    /// OpenGL through EGL: the fallback of old machines.
    Gl,
    /// Apple.
    Metal,
    /// Windows.
    Dx12,
}

impl Backend {
    fn mask(self) -> wgpu::Backends {
        match self {
            Backend::Vulkan => wgpu::Backends::VULKAN,
            Backend::Gl => wgpu::Backends::GL,
            Backend::Metal => wgpu::Backends::METAL,
            Backend::Dx12 => wgpu::Backends::DX12,
        }
    }
}

/// Which adapter to open.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GpuOptions {
    /// Adapter by its number in `kaleid info` or a part of its name
    #[arg(long, global = true, env = "KALEID_ADAPTER", value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Graphics interface to use
    #[arg(long, global = true, env = "KALEID_BACKEND", value_name = "BACKEND")]
    pub backend: Option<Backend>,
    /// Which kernels may be used: `plain` turns off all that need more than WebGPU's core
    #[arg(
        long,
        global = true,
        env = "KALEID_KERNELS",
        value_name = "WHICH",
        default_value = "tested",
        hide_default_value = true
    )]
    pub kernels: Kernels,
    /// Most device memory that a model may take, in MiB [default: what there is]
    #[arg(long, global = true, env = "KALEID_MEMORY", value_name = "MIB")]
    pub memory: Option<u64>,
    /// Time every dispatch, and print at the end where the time went, by kernel and by part of the model
    #[arg(long, global = true)]
    pub profile: bool,
    /// Compile everything again, whatever earlier programs kept on disk.
    #[arg(skip)]
    pub cold: bool,
}

impl GpuOptions {
    /// What `KALEID_ADAPTER`, `KALEID_BACKEND`, `KALEID_KERNELS` and `KALEID_MEMORY` say; for programs without these flags.
    pub fn from_env() -> Self {
        fn value<T: clap::ValueEnum>(name: &str) -> Option<T> {
            std::env::var(name).ok().and_then(|v| T::from_str(&v, true).ok())
        }
        GpuOptions {
            adapter: std::env::var("KALEID_ADAPTER").ok(),
            backend: value("KALEID_BACKEND"),
            kernels: value("KALEID_KERNELS").unwrap_or_default(),
            memory: std::env::var("KALEID_MEMORY").ok().and_then(|v| v.parse().ok()),
            ..GpuOptions::default()
        }
    }

    /// The same for each of the adapters that `--adapters` names; itself where that names none.
    pub fn each(&self, names: Vec<String>) -> Vec<GpuOptions> {
        match names.is_empty() {
            true => vec![self.clone()],
            false => {
                names.into_iter().map(|name| GpuOptions { adapter: Some(name), ..self.clone() }).collect()
            }
        }
    }

    /// All adapters with their abilities, and the number of the one that the options name, else of the best: graphics cards before
    /// integrated GPUs before software.
    pub(super) fn choose(&self) -> Result<(Vec<(wgpu::Adapter, Caps)>, usize)> {
        let adapters = adapters(self.backend);
        if adapters.is_empty() {
            bail!(
                "no {}adapter found: install a Vulkan driver (Debian, Ubuntu: mesa-vulkan-drivers libvulkan1; `sh setup.sh` does it), which also brings a software adapter",
                self.backend.map_or(String::new(), |b| format!("{b:?} ").to_lowercase())
            );
        }
        let memory = self.memory.map(|mib| mib << 20);
        let of = |a: &wgpu::Adapter| Caps { memory, ..Caps::of(a, self.kernels) };
        let caps: Vec<Caps> = adapters.iter().map(of).collect();
        let chosen = match self.adapter.as_deref().map(str::trim).filter(|a| !a.is_empty()) {
            None => {
                let is_gl = |i: usize| adapters[i].get_info().backend == wgpu::Backend::Gl;
                (0..caps.len()).rev().max_by_key(|&i| (caps[i].class as i32, !is_gl(i)))
            }
            Some(wanted) => match wanted.parse::<usize>() {
                Ok(index) => Some(index).filter(|&i| i < caps.len()),
                Err(_) => {
                    let wanted = wanted.to_lowercase();
                    caps.iter().position(|c| c.adapter.to_lowercase().contains(&wanted))
                }
            },
        };
        let Some(chosen) = chosen else {
            let names: Vec<_> = caps.iter().map(|c| c.adapter.as_str()).collect();
            bail!(
                "no adapter '{}': there are {} (`kaleid info` lists them)",
                self.adapter.as_deref().unwrap_or_default(),
                names.join("; ")
            );
        };
        Ok((adapters.into_iter().zip(caps).collect(), chosen))
    }
}

/// Every adapter of this machine. GL reaches the same devices as Vulkan, worse: it is only looked at when asked for, or when
/// there is nothing else.
pub(super) fn adapters(backend: Option<Backend>) -> Vec<wgpu::Adapter> {
    let list = |backends| {
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
        desc.backends = backends;
        desc.flags = wgpu::InstanceFlags::empty();
        pollster::block_on(wgpu::Instance::new(desc).enumerate_adapters(backends))
    };
    match backend {
        Some(backend) => list(backend.mask()),
        None => {
            let found = list(wgpu::Backends::all() - wgpu::Backends::GL);
            if found.is_empty() { list(wgpu::Backends::GL) } else { found }
        }
    }
}
