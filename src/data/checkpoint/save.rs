//! Writing safetensors.

use crate::data::write_atomic;
use ::safetensors::Dtype;
use anyhow::Result;
use half::f16;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor to be saved.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl TensorData {
    /// An f32 tensor in torch's layout.
    pub fn f32(shape: &[usize], data: &[f32]) -> TensorData {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor of shape {shape:?}");
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorData { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// The same, each number rounded to f16.
    pub fn f16(shape: &[usize], data: &[f32]) -> TensorData {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "a tensor of shape {shape:?}");
        let bytes = data.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        TensorData { dtype: Dtype::F16, shape: shape.to_vec(), bytes }
    }
}

/// Writes a safetensors file, whole or not at all. Equal tensors and metadata give equal bytes.
///
/// # Errors
/// A file that cannot be written.
pub fn save(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, TensorData>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    // Larger elements first, so that each tensor is aligned to its own.
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype));
    let mut end = 0;
    for (name, t) in &order {
        let start = end;
        end += t.bytes.len();
        let info = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, end]});
        header.insert(name.to_string(), info);
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    order.iter().for_each(|(_, t)| bytes.extend(&t.bytes));
    write_atomic(path, &bytes)
}
