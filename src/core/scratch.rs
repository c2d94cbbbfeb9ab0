//! Buffers for intermediate results, which plans may share that never run at the same time.

use super::gpu::Gpu;
use anyhow::Result;
use std::cell::RefCell;
use std::rc::Rc;

/// Buffers that plans share: the largest of each, the second of each, and so on. **What a plan left there, its outputs included, is gone
/// when another of them runs.** A clone is the same buffers.
#[derive(Clone, Default)]
pub struct Scratch(Rc<RefCell<Vec<Slot>>>);

#[derive(Default)]
struct Slot {
    bytes: usize,
    buffer: Option<wgpu::Buffer>,
}

impl Scratch {
    /// Makes room for a plan whose buffers have these sizes, the largest first. A buffer that is too small stays with the plans that have
    /// it: all that are to share reserve first.
    pub fn reserve(&self, sizes: &[usize]) {
        let mut slots = self.0.borrow_mut();
        let length = slots.len().max(sizes.len());
        slots.resize_with(length, Slot::default);
        for (slot, &bytes) in slots.iter_mut().zip(sizes).filter(|(slot, bytes)| slot.bytes < **bytes) {
            *slot = Slot { bytes, buffer: None };
        }
    }

    /// The buffer of a place that was reserved, made when it is first asked for.
    pub(super) fn buffer(&self, gpu: &Gpu, slot: usize, label: impl Fn() -> String) -> Result<wgpu::Buffer> {
        let Slot { bytes, buffer } = &mut self.0.borrow_mut()[slot];
        match buffer {
            Some(made) => Ok(made.clone()),
            None => Ok(buffer.insert(gpu.buffer(&label(), *bytes)?).clone()),
        }
    }

    /// Bytes that are reserved and not taken yet.
    pub(super) fn missing(&self) -> usize {
        let slots = self.0.borrow();
        let missing = slots.iter().filter(|slot| slot.buffer.is_none());
        missing.fold(0, |sum, slot| sum.saturating_add(slot.bytes))
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        self.0.borrow().iter().fold(0, |sum, slot| sum.saturating_add(slot.bytes))
    }

    /// Gives all of it back, as soon as no plan has it; plans to come take it anew.
    pub fn clear(&self) {
        self.0.borrow_mut().iter_mut().for_each(|slot| slot.buffer = None);
    }
}
