//! An open device: its buffers, its pipelines, and its errors as one-line results.

use super::adapter::GpuOptions;
use super::caps::Caps;
use super::pipeline::{Key, Pipeline, Pipelines};
use super::profile::Profile;
use crate::data::one_line;
use anyhow::{Context, Result, anyhow};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// There is no memory for something, or the adapter allows no buffer of its size, or its sizes exceed what a kernel can index;
/// the text says what and how much.
#[derive(Debug)]
pub struct OutOfMemory(pub String);

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfMemory {}

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    caps: Caps,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: Pipelines,
    errors: Errors,
    /// What it does in a second, in operations and bytes: the bits of an f64.
    rate: AtomicU64,
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

/// The first error that no call returned: a validation error, memory, a lost device.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Option<String>>>);

impl Errors {
    fn note(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Collects what `device` reports from now on.
    fn listen(&self, device: &wgpu::Device) {
        let errors = self.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            errors.note(match e {
                wgpu::Error::OutOfMemory { .. } => "the device is out of memory".into(),
                other => one_line(&other.to_string()),
            })
        }));
        let errors = self.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                errors.note(format!("the device was lost: {}", one_line(&message)));
            }
        });
    }
}

impl Gpu {
    /// Opens an adapter as [`Gpu::open`] does, which is in `ops/coop.rs` and sees first whether optional kernels pass their test.
    ///
    /// # Errors
    /// As `Gpu::open`.
    pub(crate) fn open_untested(options: &GpuOptions) -> Result<Self> {
        let (mut adapters, chosen) = options.choose()?;
        let (adapter, caps) = adapters.swap_remove(chosen);
        let mut wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE;
        if caps.coop.is_some() {
            wanted |= wgpu::Features::SHADER_F16 | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("kaleid"),
            required_features: adapter.features() & wanted,
            required_limits: adapter.limits(),
            // SAFETY: asked for only where kernels use it, and these are tested on the adapter before anything relies on them.
            experimental_features: match caps.coop {
                Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
                None => wgpu::ExperimentalFeatures::disabled(),
            },
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = pollster::block_on(request)
            .with_context(|| format!("{}: cannot open the device", caps.adapter))?;
        let errors = Errors::default();
        errors.listen(&device);
        let pipelines = Pipelines::new(&adapter, &device, caps.pipeline_cache && !options.cold);
        let profile = (options.profile || super::debug_level() >= 2).then(Mutex::default);
        let rate = AtomicU64::new(caps.class.rate().to_bits());
        Ok(Gpu(Arc::new(Inner { caps, device, queue, pipelines, errors, rate, profile })))
    }

    /// Every adapter of this machine, in the order that `--adapter INDEX` counts, and the number of the one that `options` choose.
    ///
    /// # Errors
    /// As [`Gpu::open`], but that none is opened.
    pub fn list(options: &GpuOptions) -> Result<(Vec<Caps>, usize)> {
        let (adapters, chosen) = options.choose()?;
        Ok((adapters.into_iter().map(|(_, caps)| caps).collect(), chosen))
    }

    /// The same device, without matrix units: why.
    pub(crate) fn without_coop(mut self, why: String) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("a device that was just opened");
        inner.caps.coop = None;
        inner.caps.no_coop = why;
        self
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.0.caps
    }

    /// What it does in a second, in operations and bytes: as it was in the last run that was timed, or what its class does at least. Only
    /// decides how work is cut, which changes no bit of a result.
    pub(crate) fn rate(&self) -> f64 {
        f64::from_bits(self.0.rate.load(Ordering::Relaxed))
    }

    /// Sets [`Gpu::rate`] to what was measured.
    pub(crate) fn set_rate(&self, rate: f64) {
        self.0.rate.store(rate.to_bits(), Ordering::Relaxed);
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
        match self.0.errors.take() {
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

    /// A buffer that kernels can use. 16 bytes longer than asked: kernels may read (and ignore) the rest of a vector.
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

    /// Waits until the device has done all that was submitted.
    pub fn wait(&self) -> Result<()> {
        let polled = self.device().poll(wgpu::PollType::wait_indefinitely());
        polled.map(|_| ()).with_context(|| format!("{}: waiting for the device", self.caps().adapter))
    }

    /// The pipeline of a kernel, compiled on first use.
    ///
    /// # Errors
    /// A driver that refuses a kernel that is optional.
    pub(crate) fn pipeline(&self, key: Key) -> Result<Arc<Pipeline>> {
        self.0.pipelines.get(key)
    }

    /// Keeps compiled pipelines on disk for the next start.
    pub(crate) fn save_pipelines(&self) {
        self.0.pipelines.save();
    }
}
