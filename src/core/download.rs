//! Reading results back: a copy into a staging buffer that is handed to the device at once and waited for later.

use super::gpu::Gpu;
use anyhow::{Result, bail};
use std::cell::Cell;
use std::sync::mpsc::{Receiver, channel};

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

impl Gpu {
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
}

/// An output of a plan on its way to the host.
pub struct Later(pub(super) Download);

impl Later {
    /// Whether [`Later::wait`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    /// The numbers.
    ///
    /// # Errors
    /// A device that failed.
    pub fn wait(&self) -> Result<Vec<f32>> {
        self.0.wait().map(|bytes| bytemuck::pod_collect_to_vec(&bytes))
    }
}
