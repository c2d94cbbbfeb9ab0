//! LoRA and its kin: small differences to a model's weights, under the names of all the programs that train them. They are merged in f32
//! when the weights are read, so that a merged model costs nothing and files stay as they are.

mod delta;
mod keys;

use crate::data::checkpoint::{Checkpoint, Patch};
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::models::ldm;
use anyhow::{Context, Result, anyhow, bail};
use delta::{Factors, Tensor};
use keys::{Role, Side};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Names that a line shows.
const SHOWN: usize = 3;
/// Files of weights in the folder of an adapter.
const FILES: [&str; 4] = [
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
];

/// How much of a file was merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Changes of layers that the model has.
    pub applied: usize,
    /// All that the file holds.
    pub total: usize,
    /// Some of those that belong to no layer of the model.
    pub unknown: Vec<String>,
}

/// Merges the file or folder at `path`, `weight` times, into a UNet and a text encoder, both under diffusers' names.
///
/// # Errors
/// A file that is broken or of a kind that is not supported; one that belongs to another model.
pub fn merge(path: &Path, weight: f32, unet: &mut Checkpoint, text: &mut Checkpoint) -> Result<Merged> {
    let file = open(path)?;
    let name = file.name().to_string();
    let scaling = Scaling::of(path, &file)?;
    let [of_unet, of_text] = [modules(unet), modules(text)];
    let mut layers: BTreeMap<&str, Factors> = BTreeMap::new();
    for key in file.names() {
        match keys::split(key) {
            Some((_, Role::Refused(kind))) => bail!("{name}: {key} is of {kind}, which is not supported"),
            Some((module, role)) => {
                let (shape, values) = file.tensor(key)?;
                layers.entry(module).or_default().add(role, Tensor { shape, values });
            }
            None if file.names().any(|other| keys::split(other).is_some()) => {}
            None => bail!("{name}: {key} is no tensor of a LoRA"),
        }
    }
    let mut merged = Merged { applied: 0, total: layers.len(), unknown: vec![] };
    for (module, factors) in layers {
        let layer = |side: Side, flat: &str| match side {
            Side::Text => of_text.get(flat).cloned(),
            Side::Unet => of_unet.get(flat).or_else(|| of_unet.get(&ldm::flat_unet(flat, unet)?)).cloned(),
        };
        let found =
            keys::sides(module).into_iter().find_map(|(side, flat)| Some((side, layer(side, &flat)?)));
        let Some((side, layer)) = found else {
            merged.unknown.push(module.to_string());
            continue;
        };
        let target = if side == Side::Unet { &mut *unet } else { &mut *text };
        let outer = scaling.of_module(module, factors.rank());
        for (part, change) in factors.changes(outer).map_err(|e| anyhow!("{name}: {module}: {e}"))? {
            let tensor = format!("{layer}.{part}");
            let shape =
                target.shape(&tensor).with_context(|| format!("{name}: the model has no {tensor}"))?;
            if !change.fits(shape) {
                bail!(
                    "{name}: {module} is for weights of another shape than {shape:?}: {}",
                    likely_base(&file)
                );
            }
            let shape = shape.to_vec();
            let patch: Patch = Arc::new(move |values| change.apply(values, &shape, weight));
            target.patch(tensor, patch);
        }
        merged.applied += 1;
    }
    if merged.applied == 0 {
        let some = merged.unknown.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        bail!(
            "{name}: none of its {} layers is one of the model ({some}): {}",
            merged.total,
            likely_base(&file)
        );
    }
    merged.unknown.truncate(SHOWN);
    Ok(merged)
}

fn open(path: &Path) -> Result<Checkpoint> {
    let file = FILES.iter().map(|file| path.join(file)).find(|file| file.exists());
    Checkpoint::open(file.as_deref().unwrap_or(path))
}

/// Layers with weights, by their paths with `_` for dots: layers' own names hold some, so that only a list of them tells one path from
/// another.
fn modules(checkpoint: &Checkpoint) -> HashMap<String, String> {
    let layer =
        |name: &str| name.rsplit_once('.').map(|(layer, _)| (layer.replace('.', "_"), layer.to_string()));
    checkpoint.names().filter_map(layer).collect()
}

/// The model that a file seems to be for: the widths of prompts tell.
fn likely_base(file: &Checkpoint) -> String {
    let width =
        file.names().filter(|name| name.contains("attn2") && name.contains("to_k")).find_map(|name| {
            let (_, role) = keys::split(name)?;
            (role == Role::Down).then(|| file.shape(name)?.get(1).copied())?
        });
    let said = file.metadata().get("ss_base_model_version").or(file.metadata().get("modelspec.architecture"));
    match (said, width) {
        (Some(said), _) => format!("its file says that it is for {said}"),
        (None, Some(768)) => "it seems to be for Stable Diffusion 1".into(),
        (None, Some(1024)) => "it seems to be for Stable Diffusion 2".into(),
        (None, Some(2048)) => "it seems to be for Stable Diffusion XL".into(),
        _ if file.names().any(|name| name.contains("lora_te2") || name.contains("text_encoder_2")) => {
            "it seems to be for Stable Diffusion XL".into()
        }
        _ => "is it for another model?".into(),
    }
}

/// How much of a difference is added, where the file of tensors does not say it: PEFT writes that elsewhere.
struct Scaling(Option<Config>);

impl Scaling {
    fn of(path: &Path, file: &Checkpoint) -> Result<Scaling> {
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        let beside = folder.map(Folder::from).filter(|folder| folder.has("adapter_config.json"));
        // A file of another program may lie in the same folder.
        let is_peft = file.names().any(|name| name.contains("lora_A"));
        if let Some(folder) = beside.filter(|_| is_peft) {
            let config = "adapter_config.json";
            return Ok(Scaling(Some(Config::parse(folder.name(config), &folder.text(config)?)?)));
        }
        let inside = file.metadata().get("lora_adapter_metadata");
        let config =
            inside.map(|text| Config::parse(format!("{}: lora_adapter_metadata", file.name()), text));
        Ok(Scaling(config.transpose()?))
    }

    /// alpha of a module over its rank, or the root of it; nothing where nobody says.
    fn of_module(&self, module: &str, rank: Option<usize>) -> Option<f32> {
        let config = self.0.as_ref()?;
        // Of a pipeline, each model's keys begin with its name.
        let side = module.split_once('.').map_or("", |(side, _)| side);
        let key = |name: &str| config.get(name).or_else(|| config.get(&format!("{side}.{name}")));
        let patterns = key("alpha_pattern").and_then(Value::as_object);
        let of_pattern =
            patterns.and_then(|all| all.iter().find(|(ending, _)| module.ends_with(ending.as_str())));
        let alpha = of_pattern.and_then(|(_, v)| v.as_f64()).or(key("lora_alpha").and_then(Value::as_f64))?;
        let root = key("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        let rank = rank? as f64;
        Some((alpha / if root { rank.sqrt() } else { rank }) as f32)
    }
}
