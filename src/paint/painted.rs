//! A painted image: a PNG whose texts say how it was made, which is how a resumed run knows that it need not paint it again.

use anyhow::Result;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, Seek};

/// The chunk with all that is known of how an image was made, as JSON.
const OWN: &str = "kaleid";
/// The chunk that most programs read. (One called `prompt` would be ComfyUI's, which wants a graph there.)
const PARAMETERS: &str = "parameters";
/// Samplers, and what AUTOMATIC1111's program calls them.
const SAMPLERS: [(&str, &str); 11] = [
    ("ddim", "DDIM"),
    ("pndm", "PLMS"),
    ("euler", "Euler"),
    ("euler-a", "Euler a"),
    ("heun", "Heun"),
    ("dpmpp-2m", "DPM++ 2M"),
    ("dpmpp-2m-sde", "DPM++ 2M SDE"),
    ("unipc", "UniPC"),
    ("deis", "DEIS"),
    ("lcm", "LCM"),
    ("ddpm", "DDPM"),
];

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
    chunks(reader.info()) == texts(metadata)
}

/// What a PNG of [`encode`] says of how it was made; nothing of others.
pub fn read(file: impl BufRead + Seek) -> Option<Map<String, Value>> {
    let reader = png::Decoder::new(file).read_info().ok()?;
    serde_json::from_str(chunks(reader.info()).get(OWN)?).ok()
}

/// What AUTOMATIC1111's program, and those that follow it, wrote into a PNG.
pub fn parameters(file: impl BufRead + Seek) -> Option<String> {
    let reader = png::Decoder::new(file).read_info().ok()?;
    chunks(reader.info()).remove(PARAMETERS)
}

/// All texts of a PNG that stand before its pixels, and those behind that were read.
fn chunks(info: &png::Info) -> BTreeMap<String, String> {
    let latin = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
    let utf8 = info.utf8_text.iter().map(|c| (c.keyword.clone(), c.get_text().unwrap_or_default()));
    latin.chain(utf8).collect()
}

/// The text chunks of an image: its metadata, except where it lies, and the same as others read it.
fn texts(metadata: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut own = metadata.clone();
    ["file_name", "domain", "class"].iter().for_each(|key| drop(own.shift_remove(*key)));
    let texts = [(OWN, Value::Object(own).to_string()), (PARAMETERS, infotext(metadata))];
    texts.map(|(key, text)| (key.to_string(), text)).into()
}

/// The metadata as AUTOMATIC1111's program writes it: the prompt, what not to show, and a line of settings.
fn infotext(metadata: &Map<String, Value>) -> String {
    let text =
        |key: &str| metadata.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
    let mut lines = vec![text("prompt").unwrap_or_default()];
    lines.extend(text("negative_prompt").map(|negative| format!("Negative prompt: {negative}")));
    let scheduler = text("scheduler").unwrap_or_default();
    let (name, schedule) =
        scheduler.strip_suffix("-karras").map_or((&scheduler[..], None), |name| (name, Some("Karras")));
    let sampler =
        SAMPLERS.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| theirs).to_string();
    let settings = [
        ("Steps", text("steps")),
        ("Sampler", Some(sampler)),
        ("Schedule type", schedule.map(str::to_string)),
        ("CFG scale", text("guidance")),
        ("Seed", text("seed")),
        ("Size", text("width").zip(text("height")).map(|(width, height)| format!("{width}x{height}"))),
        ("Model", text("model")),
        ("Clip skip", text("clip_skip")),
        ("Version", Some(concat!("kaleid ", env!("CARGO_PKG_VERSION")).to_string())),
    ];
    let quoted = |value: String| if value.contains([',', ':', '\n']) { format!("{value:?}") } else { value };
    let settings = settings.into_iter().filter_map(|(key, value)| Some(format!("{key}: {}", quoted(value?))));
    lines.push(settings.collect::<Vec<_>>().join(", "));
    lines.join("\n")
}
