//! A painted image: a PNG whose texts say how it was made, which is how a resumed run knows that it need not paint it again.

use anyhow::Result;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, Seek};

/// `pixels` (HWC RGB, `width` x `height`) as a PNG with the texts of its `metadata`, a row of `metadata.jsonl`. Texts that are not plain
/// ASCII go to international chunks.
///
/// # Errors
/// A text that a PNG cannot hold.
pub fn encode(pixels: &[u8], width: usize, height: usize, metadata: &Map<String, Value>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    for (key, text) in texts(metadata) {
        match text.is_ascii() {
            true => encoder.add_text_chunk(key, text)?,
            false => encoder.add_itxt_chunk(key, text)?,
        }
    }
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}

/// Whether `file` is a whole PNG that says it was made with this `metadata`.
pub fn is_painted(file: impl BufRead + Seek, metadata: &Map<String, Value>) -> bool {
    let Ok(mut reader) = png::Decoder::new(file).read_info() else { return false };
    if metadata["width"] != reader.info().width || metadata["height"] != reader.info().height {
        return false;
    }
    // All of it: a file may be truncated after its texts.
    let mut pixels = vec![0; reader.output_buffer_size().unwrap_or(0)];
    if reader.next_frame(&mut pixels).is_err() {
        return false;
    }
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
    let utf8 = info.utf8_text.iter().map(|c| (c.keyword.clone(), c.get_text().unwrap_or_default()));
    latin.chain(utf8).collect::<BTreeMap<_, _>>() == texts(metadata)
}

/// The text chunks of an image: its metadata, except where it lies and how large it is.
fn texts(metadata: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let not_here = ["file_name", "domain", "class", "width", "height"];
    metadata
        .iter()
        .filter(|(k, _)| !not_here.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), text(v)))
        .collect()
}
