//! Safetensors: a header in JSON, then the numbers.

use super::stored::{Found, Stored};
use crate::data::elements::Element;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use anyhow::{Result, anyhow, bail};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;

/// The tensors of a safetensors file.
pub(super) fn read(bytes: &[u8]) -> Result<Found> {
    let not_whole = |why: String| {
        anyhow!("not a whole safetensors file ({} bytes): {why}; download it again", bytes.len())
    };
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| match e {
        SafeTensorError::InvalidHeaderDeserialization(e) => {
            anyhow!("its header is none of safetensors: {e}; what wrote it made a mistake")
        }
        e => not_whole(e.to_string()),
    })?;
    // The parser keeps the last of two entries of one name.
    if let Ok(Names(Some(twice))) = serde_json::from_slice(&bytes[8..8 + header]) {
        bail!(not_whole(format!("{twice} is listed twice")));
    }
    let mut found = Found::default();
    found.metadata.extend(metadata.metadata().clone().unwrap_or_default());
    for (name, info) in metadata.tensors() {
        let range = header + 8 + info.data_offsets.0..header + 8 + info.data_offsets.1;
        let element = element(info.dtype);
        found.tensors.push((name, Stored { element, shape: info.shape.clone(), strides: None, range }));
    }
    Ok(found)
}

fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::F8_E4M3 => Element::F8E4M3,
        Dtype::F8_E5M2 => Element::F8E5M2,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        Dtype::U16 => Element::Other("U16"),
        Dtype::U32 => Element::Other("U32"),
        Dtype::U64 => Element::Other("U64"),
        Dtype::C64 => Element::Other("complex numbers"),
        _ => Element::Other("numbers of less than 8 bits"),
    }
}

/// The first name that a JSON object holds twice.
struct Names(Option<String>);

impl<'de> serde::Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let (mut seen, mut twice) = (HashSet::new(), None);
                while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                    if let Some(name) = seen.replace(name) {
                        twice.get_or_insert(name);
                    }
                }
                Ok(Names(twice))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
