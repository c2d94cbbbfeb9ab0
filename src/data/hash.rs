//! FNV-1a (Fowler, Noll and Vo), for names that must only differ: no key, no claim against collisions on purpose.

/// The 32-bit hash of a text.
pub fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}
