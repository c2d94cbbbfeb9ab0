//! The numbers of `metrics.jsonl` and the accuracies once more, as TensorBoard reads them. An event file is a list of TFRecords
//! (length, bytes, and a masked CRC-32C of each), whose bytes are messages in protocol buffers: `Event` and `Summary` of TensorFlow's
//! event.proto and summary.proto, of which scalars need five fields.

use crate::data::write_atomic;
use anyhow::{Context, Result};
use crc::{CRC_32_ISCSI, Crc};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// TensorBoard looks for `tfevents` in names.
const FILE: &str = "events.out.tfevents.0.kaleid";

/// An event file that grows.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// The file in `folder`, anew, with the events of these rows.
    ///
    /// # Errors
    /// A file that cannot be written, as for all that follows.
    pub fn open<'a>(folder: &Path, rows: impl Iterator<Item = &'a Map<String, Value>>) -> Result<Events> {
        let path = folder.join(FILE);
        let mut bytes = record(&[field(1, &0f64.to_le_bytes()), text(3, b"brain.Event:2")].concat());
        rows.for_each(|row| bytes.extend(events(row)));
        write_atomic(&path, &bytes)?;
        let file = File::options().append(true).open(&path);
        let file = file.with_context(|| format!("{}: cannot write", path.display()))?;
        Ok(Events { path, file })
    }

    /// Adds a row: an event for each number except its `step` and `time`, which say when it was, `time` in seconds since 1970.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn add(&mut self, row: &Map<String, Value>) -> Result<()> {
        let written = self.file.write_all(&events(row));
        written.with_context(|| format!("{}: cannot write (is the disk full?)", self.path.display()))
    }
}

fn events(row: &Map<String, Value>) -> Vec<u8> {
    let number = |key: &str| row.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let when =
        [field(1, &number("time").to_le_bytes()), varint(2 << 3), varint(number("step") as u64)].concat();
    let numbers = row.iter().filter(|(key, _)| !["step", "time"].contains(&key.as_str()));
    let event = |(key, value): (&String, &Value)| {
        let value = value.as_f64()? as f32;
        let scalar = [text(1, key.as_bytes()), field(2, &value.to_le_bytes())].concat();
        Some(record(&[when.clone(), text(5, &text(1, &scalar))].concat()))
    };
    numbers.filter_map(event).flatten().collect()
}

/// A TFRecord.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length, &masked(&length)[..], message, &masked(message)[..]].concat()
}

/// The checksum, rotated and moved, since a checksum of bytes that hold their own would say little.
fn masked(bytes: &[u8]) -> [u8; 4] {
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes);
    sum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A field of 4 or 8 bytes.
fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let wire = if bytes.len() == 8 { 1 } else { 5 };
    [varint(number << 3 | wire), bytes.to_vec()].concat()
}

/// A field with a length: a string, or a message.
fn text(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A whole number, seven bits to a byte, the lowest first.
fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while n >= 128 {
        bytes.push(n as u8 | 128);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_that_tensorboard_reads() {
        // CRC-32C of the nine digits, from the standard; the mask from TFRecord's description.
        assert_eq!(Crc::<u32>::new(&CRC_32_ISCSI).checksum(b"123456789"), 0xe306_9283);
        assert_eq!(masked(b"123456789"), 0xc78a_b0e5_u32.to_le_bytes());
        assert_eq!(varint(300), [0b1010_1100, 0b10]);
        let row = serde_json::from_str(r#"{"step": 300, "time": 1.5, "loss": 0.25, "note": "x"}"#).unwrap();
        let message = [
            &[9][..],
            &1.5f64.to_le_bytes(),
            &[16, 0b1010_1100, 0b10, 0x2a, 13, 10, 11, 10, 4],
            b"loss",
            &[0x15],
            &0.25f32.to_le_bytes(),
        ]
        .concat();
        let bytes = events(&row);
        assert_eq!(bytes[..8], (message.len() as u64).to_le_bytes());
        assert_eq!(bytes[12..bytes.len() - 4], message);
    }
}
