//! The adapter: choosing one, what it can do, its pipelines and buffers, and its errors as one-line results.

use super::graph::DType;
use super::kernel::Kernel;
use super::profile::Profile;
use crate::data::one_line;
use anyhow::{Context, Result, anyhow, bail};
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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

/// There is no memory for something, or the adapter allows no buffer of its size, or cannot count so far; the text says what and how
/// much.
#[derive(Debug)]
pub struct OutOfMemory(pub String);

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfMemory {}

/// A copy from the device that is under way.
pub(crate) struct Download {
    gpu: Gpu,
    staging: wgpu::Buffer,
    bytes: usize,
    /// Whether it came; told by whichever thread polls the device.
    told: Receiver<bool>,
    came: Cell<Option<bool>>,
}

impl Download {
    /// Whether [`Download::wait`] would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        if self.came.get().is_none() {
            let _ = self.gpu.device().poll(wgpu::PollType::Poll);
            self.came.set(self.told.try_recv().ok());
        }
        self.came.get().is_some()
    }

    /// The bytes.
    pub(crate) fn wait(&self) -> Result<Vec<u8>> {
        if self.came.get().is_none() {
            self.gpu.wait()?;
            self.came.set(self.told.recv().ok());
        }
        self.gpu.check(|| "reading results".into())?;
        let mapped = (self.came.get() == Some(true)).then(|| self.staging.get_mapped_range(..));
        let Some(Ok(mapped)) = mapped else { bail!("{}: results cannot be read", self.gpu.caps().adapter) };
        Ok(mapped[..self.bytes].to_vec())
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
    /// Time every dispatch, and print at the end where the time went, by kernel and by part of the model
    #[arg(long, global = true)]
    pub profile: bool,
}

impl GpuOptions {
    /// What `KALEID_ADAPTER` and `KALEID_BACKEND` say; for programs without these flags.
    pub fn from_env() -> Self {
        let backend = std::env::var("KALEID_BACKEND").ok();
        GpuOptions {
            adapter: std::env::var("KALEID_ADAPTER").ok(),
            backend: backend.and_then(|b| clap::ValueEnum::from_str(&b, true).ok()),
            profile: false,
        }
    }
}

/// Kinds of device that like different kernels; the tile tables in `ops/` are written per class.
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
    /// All classes, for tools that print every variant.
    pub const ALL: [Class; 3] = [Class::Software, Class::Integrated, Class::Discrete];

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

/// What a device can do, as far as the choice of kernels depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Name of the adapter and its backend, for reports.
    pub adapter: String,
    /// Kind of device.
    pub class: Class,
    /// f16 arithmetic and storage in shaders.
    pub f16: bool,
    /// Subgroup operations.
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
    /// What a model's matrices are kept as here: a CPU has no use for half precision but to convert it.
    pub fn weights(&self) -> DType {
        if self.class == Class::Software { DType::F32 } else { DType::F16 }
    }

    /// A device of a class with WebGPU's guaranteed limits; for tools that look at kernels without running them.
    pub fn nominal(class: Class) -> Self {
        let limits = wgpu::Limits::default();
        Caps {
            adapter: format!("nominal {class}"),
            class,
            f16: false,
            subgroups: false,
            timestamps: false,
            pipeline_cache: false,
            parallel_compile: true,
            invocations: limits.max_compute_invocations_per_workgroup as usize,
            workgroup_bytes: limits.max_compute_workgroup_storage_size as usize,
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            bindings: limits.max_storage_buffers_per_shader_stage as usize,
            tile: None,
        }
    }

    fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let class = match info.device_type {
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => Class::Discrete,
            wgpu::DeviceType::IntegratedGpu => Class::Integrated,
            _ if is_software(&info) => Class::Software,
            _ => Class::Integrated,
        };
        Caps {
            adapter: format!("{} ({}, {})", info.name, info.backend, info.driver_info).replace(", )", ")"),
            class: if is_software(&info) { Class::Software } else { class },
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
            parallel_compile: info.backend != wgpu::Backend::Gl,
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

/// A compiled pipeline and the layout of its bindings.
pub(crate) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    caps: Caps,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: Mutex<HashMap<(Kernel, usize, usize), Arc<OnceLock<Arc<Pipeline>>>>>,
    cache: Option<(wgpu::PipelineCache, PathBuf)>,
    /// First error that no call returned: a validation error, memory, a lost device.
    error: Arc<Mutex<Option<String>>>,
    /// Of all runs of all plans, where it was asked for. Printed when the device is closed.
    profile: Option<Mutex<Profile>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let profile = self.profile.take().map(|p| p.into_inner().unwrap_or_else(PoisonError::into_inner));
        if let Some(profile) = profile.filter(|p| p.total().calls > 0) {
            eprint!("{profile}");
        }
    }
}

impl Gpu {
    /// Opens the adapter that `options` name, else the best one: graphics cards before integrated GPUs before software.
    ///
    /// # Errors
    /// No adapter at all (says what to install), none that matches, or a device that cannot be opened.
    pub fn open(options: &GpuOptions) -> Result<Self> {
        let mut adapters = adapters(options.backend);
        if adapters.is_empty() {
            bail!(
                "no {}adapter found: install a Vulkan driver (Debian, Ubuntu: mesa-vulkan-drivers libvulkan1; `sh setup.sh` does it), which also brings a software adapter",
                options.backend.map_or(String::new(), |b| format!("{b:?} ").to_lowercase())
            );
        }
        let chosen = match options.adapter.as_deref().map(str::trim).filter(|a| !a.is_empty()) {
            None => {
                let rank =
                    |a: &wgpu::Adapter| (Caps::of(a).class as i32, a.get_info().backend != wgpu::Backend::Gl);
                (0..adapters.len()).rev().max_by_key(|&i| rank(&adapters[i]))
            }
            Some(wanted) => match wanted.parse::<usize>() {
                Ok(index) => Some(index).filter(|&i| i < adapters.len()),
                Err(_) => (0..adapters.len()).find(|&i| {
                    Caps::of(&adapters[i]).adapter.to_lowercase().contains(&wanted.to_lowercase())
                }),
            },
        };
        let Some(chosen) = chosen else {
            let names: Vec<_> = adapters.iter().map(|a| Caps::of(a).adapter).collect();
            bail!(
                "no adapter '{}': there are {} (`kaleid info` lists them)",
                options.adapter.as_deref().unwrap_or_default(),
                names.join("; ")
            );
        };
        Self::from_adapter(adapters.swap_remove(chosen), options.profile || debug_level() >= 2)
    }

    fn from_adapter(adapter: wgpu::Adapter, profiling: bool) -> Result<Self> {
        let caps = Caps::of(&adapter);
        let wanted =
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE | wgpu::Features::SHADER_F16;
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("kaleid"),
            required_features: adapter.features() & wanted,
            required_limits: adapter.limits(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = pollster::block_on(request)
            .with_context(|| format!("{}: cannot open the device", caps.adapter))?;
        let error = Arc::new(Mutex::new(None));
        let note = |slot: &Arc<Mutex<Option<String>>>, text: String| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert(text);
        };
        let slot = error.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            note(
                &slot,
                match e {
                    wgpu::Error::OutOfMemory { .. } => "the device is out of memory".into(),
                    other => one_line(&other.to_string()),
                },
            )
        }));
        let slot = error.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&slot, format!("the device was lost: {}", one_line(&message)));
            }
        });
        let cache = caps.pipeline_cache.then(|| open_cache(&adapter, &device)).flatten();
        let profile = profiling.then(Mutex::default);
        Ok(Gpu(Arc::new(Inner { caps, device, queue, pipelines: Mutex::default(), cache, error, profile })))
    }

    /// Every adapter of this machine, in the order that `--adapter INDEX` counts.
    pub fn list(backend: Option<Backend>) -> Vec<Caps> {
        adapters(backend).iter().map(Caps::of).collect()
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.0.caps
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    pub(crate) fn is_profiling(&self) -> bool {
        self.0.profile.is_some()
    }

    pub(crate) fn add_profile(&self, more: &Profile) {
        if let Some(profile) = &self.0.profile {
            profile.lock().unwrap_or_else(PoisonError::into_inner).merge(more);
        }
    }

    /// The first error that the device reported since the last call.
    ///
    /// # Errors
    /// That error, in one line, with `doing` in front.
    pub(crate) fn check(&self, doing: impl FnOnce() -> String) -> Result<()> {
        match self.0.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(error) => Err(anyhow!("{}: {}: {error}", self.caps().adapter, doing())),
        }
    }

    /// Refuses a buffer of more bytes than the adapter's limits allow.
    pub(crate) fn allows(&self, label: &str, bytes: usize) -> Result<()> {
        let (size, caps) = ((bytes as u64).saturating_add(32), self.caps());
        let limit = caps.buffer_bytes.min(caps.binding_bytes);
        if size > limit {
            let text = format!(
                "{label} needs a buffer of {} MiB, and {} allows {} MiB: choose a smaller size or batch, or f16 weights",
                size >> 20,
                caps.adapter,
                limit >> 20
            );
            return Err(OutOfMemory(text).into());
        }
        Ok(())
    }

    /// A buffer that kernels can use. A few bytes longer than asked: kernels may read (and ignore) the rest of a vector.
    pub(crate) fn buffer(&self, label: &str, bytes: usize) -> Result<wgpu::Buffer> {
        self.allows(label, bytes)?;
        let (size, caps) = ((bytes as u64 + 16).next_multiple_of(16), self.caps());
        let scope = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => {
                let (adapter, size) = (&caps.adapter, size >> 20);
                let text = format!(
                    "{label}: {adapter} has no {size} MiB left: choose a smaller size or batch, or f16 weights"
                );
                Err(OutOfMemory(text).into())
            }
        }
    }

    /// Copies `bytes` from the start of `buffer` to the host.
    pub(crate) fn download(&self, buffer: &wgpu::Buffer, bytes: usize) -> Result<Vec<u8>> {
        self.download_later(buffer, bytes).wait()
    }

    /// Hands a copy to the device, behind what it was given before, and returns before it is done.
    pub(crate) fn download_later(&self, buffer: &wgpu::Buffer, bytes: usize) -> Download {
        let size = (bytes as u64).next_multiple_of(4);
        let staging = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("download"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, size);
        self.queue().submit([encoder.finish()]);
        let (tell, told) = channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| _ = tell.send(result.is_ok()));
        Download { gpu: self.clone(), staging, bytes, told, came: Cell::new(None) }
    }

    /// Waits until the device has done all that was submitted.
    pub fn wait(&self) -> Result<()> {
        let polled = self.device().poll(wgpu::PollType::wait_indefinitely());
        polled.map(|_| ()).with_context(|| format!("{}: waiting for the device", self.caps().adapter))
    }

    /// The pipeline of `kernel` with so many inputs and outputs, compiled on first use.
    pub(crate) fn pipeline(&self, kernel: &Kernel, inputs: usize, outputs: usize) -> Arc<Pipeline> {
        let slot = {
            let mut all = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry((kernel.clone(), inputs, outputs)).or_default().clone()
        };
        slot.get_or_init(|| Arc::new(self.compile(kernel, inputs, outputs))).clone()
    }

    fn compile(&self, kernel: &Kernel, inputs: usize, outputs: usize) -> Pipeline {
        let (device, name, source) = (self.device(), kernel.name(), kernel.source());
        if debug_level() >= 3 {
            eprintln!("{source}");
        }
        let entries: Vec<_> = (0..1 + inputs + outputs)
            .map(|i| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match i {
                        0 => wgpu::BufferBindingType::Uniform,
                        i => wgpu::BufferBindingType::Storage { read_only: i <= inputs },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&name),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let desc = wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(source.as_str().into()),
        };
        // SAFETY: kernels check their own bounds, and every buffer is longer than its tensor by a vector, so that clamps by
        // the driver are not needed. Debug builds keep them.
        let module = match cfg!(debug_assertions) {
            true => device.create_shader_module(desc),
            false => unsafe {
                device.create_shader_module_trusted(desc, wgpu::ShaderRuntimeChecks::unchecked())
            },
        };
        let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.0.cache.as_ref().map(|(cache, _)| cache),
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            let numbered: String =
                source.lines().enumerate().map(|(i, l)| format!("{:4} {l}\n", i + 1)).collect();
            panic!("kernel {name} does not compile on {}: {error}\n{numbered}", self.caps().adapter);
        }
        Pipeline { raw, layout }
    }

    /// Keeps compiled pipelines on disk for the next start, where the adapter can. Failing to is not an error.
    pub(crate) fn save_cache(&self) {
        if let Some((cache, path)) = &self.0.cache
            && let Some(data) = cache.get_data()
        {
            let _ = crate::data::write_atomic(path, &data);
        }
    }
}

/// `DEBUG=1`: plan summaries; `2`: `--profile` as well; `3`: every WGSL source as well.
pub fn debug_level() -> u32 {
    static LEVEL: OnceLock<u32> = OnceLock::new();
    *LEVEL.get_or_init(|| std::env::var("DEBUG").ok().and_then(|v| v.parse().ok()).unwrap_or(0))
}

/// GL reaches the same devices as Vulkan, worse: it is only looked at when asked for, or when there is nothing else.
fn adapters(backend: Option<Backend>) -> Vec<wgpu::Adapter> {
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

/// The pipeline cache of this adapter and driver, from the user's cache folder.
fn open_cache(adapter: &wgpu::Adapter, device: &wgpu::Device) -> Option<(wgpu::PipelineCache, PathBuf)> {
    let key = wgpu::util::pipeline_cache_key(&adapter.get_info())?;
    let path = dirs::cache_dir()?.join("kaleid").join("pipelines").join(key);
    let data = std::fs::read(&path).ok();
    // SAFETY: the file holds what `get_data` gave for this adapter and driver; the driver checks its header, and `fallback`
    // starts an empty cache where it does not fit.
    let cache = unsafe {
        device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
            label: Some("kaleid"),
            data: data.as_deref(),
            fallback: true,
        })
    };
    Some((cache, path))
}
