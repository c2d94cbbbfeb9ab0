//! What a file or folder is: a picture and the command that makes it again, a model and what it needs.

use super::painted;
use crate::core::{Gpu, GpuOptions};
use crate::data::checkpoint::Checkpoint;
use crate::data::folder::Folder;
use crate::engines::model::Model;
use crate::engines::options::Options;
use crate::engines::painter::Painter;
use crate::models::ldm;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What lies at `path`, as keys and texts in the order in which they are to be read.
///
/// # Errors
/// Nothing there, or nothing that this program opens.
pub fn about(path: &Path, gpu: &GpuOptions) -> Result<Vec<(&'static str, String)>> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
        return picture(path);
    }
    if path.join("model_index.json").exists() || path.join("unet").is_dir() {
        return painter(path, "Stable Diffusion, a folder in diffusers' layout", gpu);
    }
    let file = Checkpoint::open(path)?;
    let mut all = if let Some(what) = ldm::other_model(&file) {
        vec![("is", what.to_string())]
    } else if ldm::unet(&file)?.is_some() && ldm::vae(&file)?.is_some() && ldm::text(&file)?.is_some() {
        painter(path, "Stable Diffusion, in one file", gpu)?
    } else {
        vec![("is", parts(&file)?)]
    };
    all.extend(contents(&file));
    Ok(all)
}

/// A painted picture.
fn picture(path: &Path) -> Result<Vec<(&'static str, String)>> {
    let open = || -> Result<_> {
        Ok(BufReader::new(File::open(path).with_context(|| format!("{}: cannot read", path.display()))?))
    };
    match (painted::read(open()?), painted::parameters(open()?)) {
        (Some(made), _) => {
            Ok(vec![("is", "a picture that kaleid painted".into()), ("command", command(&made))])
        }
        (None, Some(said)) => Ok(vec![("is", "a picture of another program".into()), ("parameters", said)]),
        (None, None) => bail!("{}: a PNG that does not say how it was made", path.display()),
    }
}

/// The command that paints a picture again.
fn command(made: &Map<String, Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let mut command = "kaleid generate".to_string();
    let mut flag = |name: &str, value: String| command += &format!(" --{name} {}", quoted(&value));
    for (key, name) in [
        ("model", "model"),
        ("vae", "vae"),
        ("text_encoder", "text-encoder"),
        ("prediction_type", "prediction-type"),
        ("prompt", "prompt"),
        ("negative_prompt", "negative"),
        ("seed", "seed"),
        ("steps", "steps"),
        ("guidance", "guidance"),
        ("guidance_rescale", "guidance-rescale"),
        ("clip_skip", "clip-skip"),
        ("long_prompts", "long-prompts"),
        ("rng", "rng"),
        ("init", "init"),
        ("strength", "strength"),
        ("scheduler", "scheduler"),
    ] {
        if let Some(value) = made.get(key) {
            flag(name, text(value));
        }
    }
    for (key, name) in [("lora", "lora"), ("embedding", "embedding")] {
        let list = made.get(key).and_then(Value::as_array).into_iter().flatten();
        list.for_each(|value| flag(name, text(value)));
    }
    if let (Some(width), Some(height)) = (made.get("width"), made.get("height")) {
        let saved = format!("{width}x{height}");
        match made.get("painted_size") {
            Some(size) => {
                flag("size", text(size));
                flag("saved-size", saved);
            }
            None => flag("size", saved),
        }
    }
    flag("out", "images".into());
    command
}

/// A word of a shell's command line.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_string(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A Stable Diffusion, and what painting one image takes of the adapter.
fn painter(path: &Path, what: &str, gpu: &GpuOptions) -> Result<Vec<(&'static str, String)>> {
    let options = Options { model: path.to_path_buf(), ..Options::default() };
    let model = Model::open(&Folder::from(path), &options)?;
    let [height, width] = model.size(None)?;
    let scheduler = model.scheduler(None)?.name();
    let gpu = Gpu::open(gpu)?;
    let needs = match Painter::new(&gpu, &model, &options, 1, 1) {
        Ok(mut painter) => format!("{} on {}", painter.takes(), gpu.caps().adapter),
        Err(e) => format!("{e:#}"),
    };
    Ok(vec![
        ("is", what.to_string()),
        (
            "paints",
            format!(
                "{width}x{height}, by default with {scheduler}; its UNet predicts {}",
                model.prediction_type()
            ),
        ),
        ("needs", needs),
    ])
}

/// Which parts of a Stable Diffusion a file holds.
fn parts(file: &Checkpoint) -> Result<String> {
    let found =
        [("UNet", ldm::unet(file)?), ("autoencoder", ldm::vae(file)?), ("text encoder", ldm::text(file)?)];
    let names: Vec<&str> = found.iter().filter(|(_, part)| part.is_some()).map(|(name, _)| *name).collect();
    let missing: Vec<&str> = found.iter().filter(|(_, part)| part.is_none()).map(|(name, _)| *name).collect();
    Ok(match names.is_empty() {
        true => "weights of no kind that is known by name".into(),
        false => format!("Stable Diffusion's {}, without {}", names.join(" and "), missing.join(" and ")),
    })
}

/// Tensors, numbers, and what the file says.
fn contents(file: &Checkpoint) -> Vec<(&'static str, String)> {
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let mut numbers = 0usize;
    for name in file.names() {
        numbers += file.shape(name).map_or(0, |shape| shape.iter().product());
        *types.entry(file.element(name).map_or(String::new(), |e| e.to_string())).or_default() += 1;
    }
    let types: Vec<String> = types.iter().map(|(element, n)| format!("{n} of {element}")).collect();
    let tensors = file.names().count();
    let mut all = vec![(
        "holds",
        format!("{tensors} tensors, {:.1} million numbers: {}", numbers as f64 / 1e6, types.join(", ")),
    )];
    all.extend(file.remarks().iter().map(|remark| ("note", remark.clone())));
    let said = file.metadata().iter().filter(|(_, value)| value.len() < 200);
    all.extend(said.map(|(key, value)| ("says", format!("{key} = {value}"))));
    all
}
