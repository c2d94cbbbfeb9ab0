//! Which files of a Hugging Face folder hold a model's weights: one file, or shards that an index lists; safetensors before others; of
//! several variants (`.fp16`, `.non_ema`) the plain one, then fp16.

use super::text;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Names of the one file, most wanted first.
pub(super) const FILES: [&str; 9] = [
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "pytorch_model.safetensors",
    "pytorch_model.fp16.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
];

/// Endings of files of weights; of two formats the one that is read faster.
const ENDINGS: [&str; 6] = [".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt"];
/// What marks the index of shards; a variant stands before it or, in files of diffusers, between it and `.json`.
const INDEX: [&str; 2] = [".safetensors.index", ".bin.index"];

/// The file with the weights among `names`, or the index of its shards; nothing where there is none.
///
/// # Errors
/// Several of which none is to be preferred: a list of them.
pub fn choose(names: &[String]) -> Result<Option<String>, String> {
    let mut several = None;
    for ending in ENDINGS {
        let usual = FILES.iter().filter(|f| f.ends_with(ending)).find(|f| names.iter().any(|n| n == *f));
        if let Some(name) = usual {
            return Ok(Some(name.to_string()));
        }
        let mark = format!("{ending}.index");
        let indices: Vec<&String> =
            names.iter().filter(|n| n.contains(&mark) && n.ends_with(".json")).collect();
        let of = |variant: &str| indices.iter().find(|n| variant_of(n) == variant);
        if let Some(index) = of("").or(of("fp16")) {
            return Ok(Some(index.to_string()));
        }
        let whole = |n: &&String| n.ends_with(ending) && !is_later_shard(n, ending);
        let candidates: Vec<&String> = indices.into_iter().chain(names.iter().filter(whole)).collect();
        match candidates[..] {
            [only] => return Ok(Some(only.clone())),
            [] => {}
            _ => {
                let list = candidates.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
                several.get_or_insert(list);
            }
        }
    }
    several.map_or(Ok(None), Err)
}

/// The file with the weights of `folder`, or the index of its shards.
///
/// # Errors
/// No such file, or several of which none is to be preferred.
pub(super) fn find(folder: &Path) -> Result<PathBuf> {
    let read = std::fs::read_dir(folder).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut names: Vec<String> =
        read.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| !n.starts_with('.')).collect();
    names.sort();
    let place = folder.display();
    match choose(&names) {
        Ok(Some(name)) => return Ok(folder.join(name)),
        Ok(None) => {}
        Err(list) => {
            bail!("{place}: several files of weights ({list}): move all away but the one that is meant")
        }
    }
    let ends = |endings: &[&str]| names.iter().find(|n| endings.iter().any(|e| n.ends_with(e)));
    if let Some(name) = ends(&[".incomplete", ".crdownload", ".part", ".download", ".aria2"]) {
        bail!("{place}: {name} is a download that was not finished; download it again");
    }
    if let Some(name) = names.iter().find(|n| is_shard(n) && ENDINGS.iter().any(|e| n.ends_with(e))) {
        bail!(
            "{place}: {name} is one of several, and their index (*{}.json) is missing; download it",
            INDEX[0]
        );
    }
    bail!("{place}: no weights (*.safetensors, *.gguf, *.bin, *.ckpt) in this folder")
}

/// The variant of an index: `fp16` of `model.safetensors.index.fp16.json` and of `model.fp16.safetensors.index.json`.
fn variant_of(index: &str) -> &str {
    let (stem, rest) = INDEX.iter().find_map(|mark| index.split_once(mark)).unwrap_or((index, ""));
    let after = rest.trim_end_matches("json").trim_matches('.');
    if after.is_empty() { stem.split_once('.').map_or("", |(_, variant)| variant) } else { after }
}

/// Whether a name is one of several that is not opened itself: the first of a GGUF leads to the others.
fn is_later_shard(name: &str, ending: &str) -> bool {
    shard(name).is_some_and(|(_, part, _)| ending != ".gguf" || !part.starts_with("-00001-"))
}

/// Whether a name is one of `-00001-of-00002`.
fn is_shard(name: &str) -> bool {
    shard(name).is_some()
}

/// A shard's name in its three parts: before the number, `-00001-of-00002`, behind it.
fn shard(name: &str) -> Option<(&str, &str, &str)> {
    const LENGTH: usize = "-00001-of-00002".len();
    let at = name.find("-of-")?.checked_sub("-00001".len())?;
    let part = name.get(at..at + LENGTH)?;
    let is_like =
        |(c, like): (char, char)| if like.is_ascii_digit() { c.is_ascii_digit() } else { c == like };
    let shape = part.chars().zip("-00001-of-00002".chars()).all(is_like);
    shape.then(|| (&name[..at], part, &name[at + LENGTH..]))
}

/// The shards that an index lists, `{"weight_map": {tensor: file}}`, and the tensors that they must hold.
///
/// # Errors
/// An index that is broken; a name that leads out of the folder.
pub(super) fn shards(index: &Path) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let at = index.display();
    let json: Value = text::json(&text::read(index)?).map_err(|e| anyhow!("{at}: not valid JSON: {e}"))?;
    let Some(map) = json["weight_map"].as_object() else { bail!("{at}: no weight_map in it") };
    let mut files: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    files.sort_unstable();
    files.dedup();
    let mut paths = vec![];
    for file in files {
        // Shards lie beside their index: a path that leads elsewhere is not followed.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            bail!("{at}: {file:?} is not the name of a file in this folder");
        }
        let path = index.with_file_name(file);
        let other = other_spelling(file).map(|name| index.with_file_name(name));
        paths.push(other.filter(|other| !path.exists() && other.exists()).unwrap_or(path));
    }
    Ok((paths, map.keys().cloned().collect()))
}

/// All files of a GGUF that was split, of which `file` is one; of another file nothing.
pub(super) fn split(file: &Path) -> Option<Vec<PathBuf>> {
    let (stem, part, ending) =
        shard(file.file_name()?.to_str()?).filter(|(.., ending)| *ending == ".gguf")?;
    let of = &part["-00001-of-".len()..];
    let name = |i: usize| file.with_file_name(format!("{stem}-{i:05}-of-{of}{ending}"));
    Some((1..=of.parse().ok()?).map(name).collect())
}

/// A variant's shard as the other of two habits spells it: `model.fp16-00001-of-00002.safetensors` is
/// `model-00001-of-00002.fp16.safetensors`.
fn other_spelling(file: &str) -> Option<String> {
    let (stem, part, ending) = shard(file)?;
    let last = &ending[ending.rfind('.')?..];
    match (stem.split_once('.'), ending.strip_suffix(last)?.strip_prefix('.')) {
        (Some((stem, variant)), None) => Some(format!("{stem}{part}.{variant}{last}")),
        (None, Some(variant)) => Some(format!("{stem}.{variant}{part}{last}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_variants_the_plain_one_then_fp16_then_the_only_one() {
        let found = |names: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            names.iter().for_each(|name| std::fs::write(dir.path().join(name), b"").unwrap());
            let found = find(dir.path()).map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
            found.map_err(|e| e.to_string())
        };
        let [plain, fp16] = ["model.safetensors.index.json", "model.safetensors.index.fp16.json"];
        let shards = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"];
        assert_eq!(found(&[fp16, plain]).unwrap(), plain);
        assert_eq!(found(&[fp16, shards[0], shards[1]]).unwrap(), fp16);
        let other = "diffusion_pytorch_model.fp16.safetensors.index.json";
        assert_eq!(
            found(&[other, "diffusion_pytorch_model-00001-of-00002.fp16.safetensors"]).unwrap(),
            other
        );
        assert_eq!(found(&["model.bf16.safetensors"]).unwrap(), "model.bf16.safetensors");
        assert_eq!(
            found(&["model.bf16.safetensors", "model.fp16.safetensors"]).unwrap(),
            "model.fp16.safetensors"
        );
        let two = found(&["model.bf16.safetensors", "model.non_ema.safetensors"]).unwrap_err();
        assert!(
            two.contains("model.bf16.safetensors, model.non_ema.safetensors): move all away but"),
            "{two}"
        );
        assert!(found(&shards).unwrap_err().contains("their index (*.safetensors.index.json) is missing"));
        assert!(found(&["model.safetensors.crdownload"]).unwrap_err().contains("was not finished"));
        assert_eq!(found(&["pytorch_model.bin", "model.safetensors"]).unwrap(), "model.safetensors");
        assert_eq!(found(&["pytorch_model.bin.index.json"]).unwrap(), "pytorch_model.bin.index.json");
        assert_eq!(found(&["pytorch_model.bin", "training_args.bin"]).unwrap(), "pytorch_model.bin");
        let gguf = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
        assert_eq!(found(&gguf).unwrap(), gguf[0]);
    }

    #[test]
    fn variants_and_shards_by_name() {
        assert_eq!(variant_of("model.safetensors.index.json"), "");
        assert_eq!(variant_of("model.safetensors.index.fp16.json"), "fp16");
        assert_eq!(variant_of("diffusion_pytorch_model.bf16.safetensors.index.json"), "bf16");
        let [a, b] = ["model.fp16-00001-of-00002.safetensors", "model-00001-of-00002.fp16.safetensors"];
        assert_eq!((other_spelling(a).as_deref(), other_spelling(b).as_deref()), (Some(b), Some(a)));
        assert!(is_shard("model-00001-of-00002.safetensors") && !is_shard("picture-of-a-dog.safetensors"));
        assert!(!is_shard("-of-") && other_spelling("model-00001-of-00002.safetensors").is_none());
    }
}
