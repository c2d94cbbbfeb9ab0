//! Element types of tensors in device memory.

/// Element type of a tensor in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, two per 32-bit word; for weights that are not trained, and for activations. Read with `unpack2x16float`, which
    /// needs no device feature.
    F16,
    /// 32-bit unsigned integer: ids, labels, keys.
    U32,
}

impl DType {
    /// Bytes of `n` elements, rounded up to whole 32-bit words. Saturates instead of overflowing.
    pub fn bytes(self, n: usize) -> usize {
        match self {
            DType::F32 | DType::U32 => n.saturating_mul(4),
            DType::F16 => n.div_ceil(2).saturating_mul(4),
        }
    }
}
