//! Compiled kernels of one device, each compiled once, and kept on disk for the next start where the adapter can.

use super::kernel::Kernel;
use anyhow::{Result, anyhow};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A compiled pipeline and the layout of its bindings.
pub(crate) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// What a pipeline is compiled from: a kernel, and how many inputs and outputs it binds.
pub(crate) type Key<'k> = (&'k Kernel, usize, usize);

/// A pipeline, or what the driver says against it.
type Slot = Arc<OnceLock<Result<Arc<Pipeline>, String>>>;

pub(super) struct Pipelines {
    adapter: String,
    device: wgpu::Device,
    compiled: Mutex<HashMap<(Kernel, usize, usize), Slot>>,
    cache: Option<(wgpu::PipelineCache, PathBuf)>,
}

impl Pipelines {
    /// Starts from what an earlier program left on disk, if `keep`.
    pub fn new(adapter: &wgpu::Adapter, device: &wgpu::Device, keep: bool) -> Self {
        let cache = keep.then(|| open_cache(adapter, device)).flatten();
        Pipelines {
            adapter: adapter.get_info().name,
            device: device.clone(),
            compiled: Mutex::default(),
            cache,
        }
    }

    /// The pipeline of a kernel, compiled on first use. Threads that ask for the same one at the same time compile it once.
    ///
    /// # Errors
    /// A driver that refuses a kernel that is optional.
    ///
    /// # Panics
    /// If any other kernel does not compile.
    pub fn get(&self, (kernel, inputs, outputs): Key) -> Result<Arc<Pipeline>> {
        let slot = {
            let mut all = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry((kernel.clone(), inputs, outputs)).or_default().clone()
        };
        let compiled = slot.get_or_init(|| self.compile(kernel, inputs, outputs).map(Arc::new));
        compiled.clone().map_err(|e| anyhow!("kernel {} does not compile: {e}", kernel.name()))
    }

    fn compile(&self, kernel: &Kernel, inputs: usize, outputs: usize) -> Result<Pipeline, String> {
        let (device, name, source) = (&self.device, kernel.name(), kernel.source());
        if super::debug_level() >= 3 {
            eprintln!("{source}");
        }
        let layout = layout(device, &name, inputs, outputs);
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
            cache: self.cache.as_ref().map(|(cache, _)| cache),
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            if kernel.is_optional() {
                return Err(crate::data::one_line(&error.to_string()));
            }
            let numbered: String =
                source.lines().enumerate().map(|(i, l)| format!("{:4} {l}\n", i + 1)).collect();
            panic!("kernel {name} does not compile on {}: {error}\n{numbered}", self.adapter);
        }
        Ok(Pipeline { raw, layout })
    }

    /// Writes the compiled pipelines to disk. Failing to is not an error.
    pub fn save(&self) {
        if let Some((cache, path)) = &self.cache
            && let Some(data) = cache.get_data()
        {
            let _ = crate::data::write_atomic(path, &data);
        }
    }
}

/// Binding 0 is the uniform with a step's numbers; inputs follow, then outputs.
fn layout(device: &wgpu::Device, name: &str, inputs: usize, outputs: usize) -> wgpu::BindGroupLayout {
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
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries })
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
