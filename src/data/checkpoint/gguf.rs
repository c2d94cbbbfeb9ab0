//! GGUF, versions 2 and 3: keys and values, names and shapes, then the numbers, mostly in blocks (ggml's `gguf.cpp`).

use super::stored::{Found, Stored};
use crate::data::blocks::Block;
use crate::data::elements::Element;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Number, Value};
use std::collections::HashSet;

/// The tensors of a GGUF.
pub(super) fn read(bytes: &[u8]) -> Result<Found> {
    let mut reader = Reader { bytes, at: 4 };
    let version = u32::from_le_bytes(reader.array()?);
    match version {
        2 | 3 => {}
        _ if version & 0xffff == 0 => bail!("a GGUF of big-endian numbers, which is not supported"),
        _ => bail!("version {version} of GGUF is not supported: 2 and 3 are"),
    }
    let (tensors, keys) = (reader.size()?, reader.size()?);
    let mut found = Found::default();
    for _ in 0..keys {
        let key = reader.text()?;
        let kind = u32::from_le_bytes(reader.array()?);
        let value = reader.value(kind).with_context(|| key.clone())?;
        found.header.insert(key, value);
    }
    // Name, shape, element and place of each.
    let mut infos = vec![];
    for _ in 0..tensors {
        let name = reader.text()?;
        let rank = u32::from_le_bytes(reader.array()?);
        ensure!(rank <= 4, "{name} has {rank} dimensions");
        let mut shape = (0..rank).map(|_| reader.size()).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let element = element(u32::from_le_bytes(reader.array()?));
        infos.push((name, shape, element, reader.size()?));
    }
    let alignment = match found.header.get("general.alignment") {
        None => 32,
        Some(value) => value.as_u64().filter(|n| n.is_power_of_two()).context("general.alignment")? as usize,
    };
    let data = reader.at.checked_next_multiple_of(alignment).context("general.alignment")?;
    let mut names = HashSet::new();
    for (name, shape, element, offset) in infos {
        ensure!(names.insert(name.clone()), "{name} is listed twice");
        let numbers = checked(&shape);
        // Blocks lie along rows.
        let whole = shape.last().is_none_or(|row| row % element.unit()[0] == 0);
        let length = numbers.filter(|_| whole).and_then(|n| element.bytes(n));
        let length = length.with_context(|| format!("{name} of shape {shape:?} cannot be of {element:?}"))?;
        let start = data.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(length)).filter(|&end| end <= bytes.len());
        let end =
            end.with_context(|| format!("{name} is cut short ({} bytes): download it again", bytes.len()))?;
        let shape = original_shape(&found, &name).filter(|s| checked(s) == numbers).unwrap_or(shape);
        found.tensors.push((name, Stored { element, shape, strides: None, range: end - length..end }));
    }
    Ok(found)
}

/// Numbers of a tensor, if they can be counted.
fn checked(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size))
}

/// The shape that a tensor had before it was made one that blocks fit (ComfyUI-GGUF).
fn original_shape(found: &Found, name: &str) -> Option<Vec<usize>> {
    let shape = found.header.get(&format!("comfy.gguf.orig_shape.{name}"))?.as_array()?;
    shape.iter().map(|size| usize::try_from(size.as_u64()?).ok()).collect()
}

/// ggml's number of a type.
fn element(number: u32) -> Element {
    match number {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::Block(Block::Q4_0),
        3 => Element::Block(Block::Q4_1),
        6 => Element::Block(Block::Q5_0),
        7 => Element::Block(Block::Q5_1),
        8 => Element::Block(Block::Q8_0),
        10 => Element::Block(Block::Q2_K),
        11 => Element::Block(Block::Q3_K),
        12 => Element::Block(Block::Q4_K),
        13 => Element::Block(Block::Q5_K),
        14 => Element::Block(Block::Q6_K),
        20 => Element::Block(Block::IQ4_NL),
        23 => Element::Block(Block::IQ4_XS),
        24 => Element::I8,
        25 => Element::I16,
        26 => Element::I32,
        27 => Element::I64,
        28 => Element::F64,
        30 => Element::BF16,
        16..=19 | 21 | 22 | 29 => Element::Other("blocks of IQ1, IQ2 or IQ3"),
        34 | 35 => Element::Other("ternary blocks"),
        39..=42 => Element::Other("blocks of MXFP4, NVFP4, Q1 or Q2"),
        _ => Element::Other("a type that is not known"),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.with_context(|| {
            format!("a GGUF that is cut short ({} bytes): download it again", self.bytes.len())
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn size(&mut self) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?))?)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.size()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// A value of this type; numbers that JSON does not have become nothing.
    fn value(&mut self, kind: u32) -> Result<Value> {
        let float = |n: f64| Number::from_f64(n).map_or(Value::Null, Value::Number);
        Ok(match kind {
            0 => Value::from(self.array::<1>()?[0]),
            1 => Value::from(i8::from_le_bytes(self.array()?)),
            2 => Value::from(u16::from_le_bytes(self.array()?)),
            3 => Value::from(i16::from_le_bytes(self.array()?)),
            4 => Value::from(u32::from_le_bytes(self.array()?)),
            5 => Value::from(i32::from_le_bytes(self.array()?)),
            6 => float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::from(self.array::<1>()?[0] != 0),
            8 => Value::from(self.text()?),
            9 => {
                let kind = u32::from_le_bytes(self.array()?);
                ensure!(kind != 9, "a list of lists");
                let length = self.size()?;
                // A number that lies about the file's length ends with the file: each value has a byte at least.
                Value::Array((0..length).map(|_| self.value(kind)).collect::<Result<_>>()?)
            }
            10 => Value::from(u64::from_le_bytes(self.array()?)),
            11 => Value::from(i64::from_le_bytes(self.array()?)),
            12 => float(f64::from_le_bytes(self.array()?)),
            other => bail!("a value of type {other}, which is not known"),
        })
    }
}
