//! Images from prompts: PNG files that say how they were made, and a `metadata.jsonl` that Hugging Face's `imagefolder` reads.

use super::batches::{self, Batch, Group, Queue};
use super::origins::named;
use super::painted::is_painted;
use super::picture::{Names, Picture};
use super::preview;
use crate::core::{Gpu, GpuOptions};
use crate::data::chosen;
use crate::data::disk::room_for;
use crate::data::folder::Folder;
use crate::data::{writable_folder, write_atomic};
use crate::engines::clip::PromptReader;
use crate::engines::model::Model;
use crate::engines::options::{LongPrompts, Options, Rng};
use crate::engines::painter::Painter;
use crate::hub;
use crate::progress::Progress;
use anyhow::{Context, Error, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::BufReader;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Bytes of a file's text chunks, roughly.
const TEXTS: usize = 4096;
/// Prompts that a warning shows.
const SHOWN: usize = 3;

/// What [`run`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Images painted now.
    pub painted: usize,
    /// Images that an earlier run had painted.
    pub kept: usize,
}

/// One of several runs that paint a share each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub part: usize,
    /// How many there are.
    pub of: usize,
}

/// How a run goes about it, which changes no image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work<'a> {
    /// Only a share of the images.
    pub shard: Option<Shard>,
    /// Adapters that paint beside the first.
    pub beside: &'a [GpuOptions],
    /// Steps between two previews, in a file of the images' folder.
    pub preview: Option<NonZeroUsize>,
}

/// Paints `pictures`, or the share of `work.shard`, with the model in `folder` into `out`; the n-th picture without a seed takes `seed` + n.
/// An image that is already there and says that it was made in the same way is kept, so that a stopped run resumes, to the same bytes.
///
/// # Errors
/// A model or options that do not work, a folder that cannot be written, Ctrl-C.
pub fn run(
    gpu: &Gpu,
    folder: &Folder,
    pictures: &[Picture],
    out: &Path,
    options: &Options,
    seed: u64,
    work: Work,
) -> Result<Summary> {
    let options = &options.resolved();
    let models = models_of(folder, options, &domains(pictures, options)?)?;
    let planned = planned(&models, folder, pictures, options, seed)?;
    let own = |i: usize| work.shard.is_none_or(|shard| i % shard.of == shard.part - 1);
    let all: Vec<&Planned> = (0..).zip(&planned).filter(|(i, _)| own(*i)).map(|(_, p)| p).collect();
    let is_there = |p: &Planned| {
        let file = File::open(out.join(&p.picture.file_name));
        file.is_ok_and(|file| is_painted(BufReader::new(file), &p.metadata))
    };
    let mut kinds: BTreeMap<_, usize> = BTreeMap::new();
    planned.iter().for_each(|p| *kinds.entry(p.kind()).or_default() += 1);
    let mut left: BTreeMap<Group, Vec<&Planned>> = BTreeMap::new();
    for p in all.iter().copied().filter(|p| !is_there(p)) {
        let (of, (domain, chunks)) = (kinds[&p.kind()], p.kind());
        let from_images = p.picture.init.is_some();
        let group = Group { domain: domain.clone(), chunks, of, from_images };
        left.entry(group).or_default().push(p);
    }
    let painted = left.values().map(Vec::len).sum();
    if painted > 0 {
        if options.long_prompts == LongPrompts::Cut {
            let left: Vec<&Planned> = left.values().flatten().copied().collect();
            warn_of_long_prompts(&readers(&models)?, &left, &options.negative)?;
        }
        paint(gpu, &models, &mut left, folder, out, options, work)?;
    }
    // Each part writes the lines of all: those of the others are what they will be. What was selected holds for the image that it was
    // said of.
    let before = chosen::rows(out)?;
    let line = |p: &Planned| {
        let mut row = p.metadata.clone();
        let mut held = before.get(&p.picture.file_name).cloned().unwrap_or_default();
        let selected = held.remove(chosen::SELECTION);
        let holds = |s: &Value| held == row || s["action"] == "regenerate";
        if let Some(selected) = selected.filter(holds) {
            row.insert(chosen::SELECTION.into(), selected);
        }
        Value::Object(row).to_string() + "\n"
    };
    write_atomic(out.join(chosen::METADATA), planned.iter().map(line).collect::<String>().as_bytes())?;
    Ok(Summary { painted, kept: all.len() - painted })
}

/// A model with its options for each domain that has LoRAs of its own, and for all others.
pub(super) type Models = BTreeMap<Option<String>, (Model, Options)>;

/// Sees that pictures belong together, and finds the domains that have LoRAs of their own.
fn domains(pictures: &[Picture], options: &Options) -> Result<BTreeSet<Option<String>>> {
    let mut names = Names::default();
    pictures.iter().try_for_each(|picture| names.add(picture))?;
    let own = |picture: &Picture| options.own_domain(picture.domain.as_deref()).map(str::to_string);
    let domains: BTreeSet<Option<String>> = pictures.iter().map(own).collect();
    let unused = options.lora.iter().find(|lora| lora.domain.is_some() && !domains.contains(&lora.domain));
    if let Some(lora) = unused {
        bail!("--lora {lora}: no image is of this domain");
    }
    let without = pictures.iter().find(|picture| picture.init.is_none());
    if let (Some(picture), true) = (without, pictures.iter().any(|picture| picture.init.is_some())) {
        bail!(
            "{} has no image to be painted from, and others have: paint them in runs of their own",
            picture.file_name
        );
    }
    if let Some(init) =
        pictures.iter().find_map(|picture| picture.init.as_ref().filter(|init| !init.is_file()))
    {
        bail!("{}: no such image to paint from", init.display());
    }
    Ok(domains)
}

/// What reads the prompts of each model.
type Readers = BTreeMap<Option<String>, PromptReader>;

fn readers(models: &Models) -> Result<Readers> {
    models.iter().map(|(domain, (model, _))| Ok((domain.clone(), PromptReader::of(model)?))).collect()
}

/// The models for these domains.
///
/// # Errors
/// As [`Model::open`].
pub(super) fn models_of(
    folder: &Folder,
    options: &Options,
    domains: &BTreeSet<Option<String>>,
) -> Result<Models> {
    let of = |domain: &Option<String>| {
        let options = options.for_domain(domain.as_deref());
        Ok((domain.clone(), (Model::open(folder, &options)?, options)))
    };
    domains.iter().map(of).collect()
}

/// A picture with a seed, and how it is made.
pub(super) struct Planned {
    pub picture: Picture,
    pub metadata: Map<String, Value>,
    pub guidance: f32,
    pub strength: f32,
    /// Its domain, if there is a LoRA for that.
    domain: Option<String>,
    /// How often the text encoder reads for its prompt.
    chunks: usize,
}

impl Planned {
    /// What it shares with those that one painter paints.
    fn kind(&self) -> (&Option<String>, usize) {
        (&self.domain, self.chunks)
    }
}

/// How each picture is made.
fn planned(
    models: &Models,
    folder: &Folder,
    pictures: &[Picture],
    options: &Options,
    first: u64,
) -> Result<Vec<Planned>> {
    // A prompt that is cut is read once, however long it is.
    let chunking = options.long_prompts == LongPrompts::Chunk;
    let readers = if chunking { readers(models)? } else { BTreeMap::new() };
    let pieces = |domain: &Option<String>, text: &str| match readers.get(domain) {
        Some(reader) => Ok(reader.ids(text)?.len()),
        None => Ok::<usize, Error>(1),
    };
    let negative = |domain: &Option<String>| Ok((domain.clone(), pieces(domain, &options.negative)?));
    let negatives: BTreeMap<Option<String>, usize> = models.keys().map(negative).collect::<Result<_>>()?;
    let one = |(i, picture): (usize, &Picture)| {
        let domain = options.own_domain(picture.domain.as_deref()).map(str::to_string);
        let seed = picture.seed.unwrap_or(first.wrapping_add(i as u64));
        let picture = Picture { seed: Some(seed), ..picture.clone() };
        let (model, options) = &models[&domain];
        let chunks = pieces(&domain, &picture.prompt)?.max(negatives[&domain]);
        let (guidance, strength) =
            (options.guidance.of(seed, "guidance"), options.strength.of(seed, "strength"));
        let planned =
            Planned { picture, metadata: Map::new(), guidance, strength, domain: domain.clone(), chunks };
        Ok(Planned { metadata: metadata(model, folder, &planned, options)?, ..planned })
    };
    pictures.iter().enumerate().map(one).collect()
}

/// Paints the pictures that are left.
fn paint(
    gpu: &Gpu,
    models: &Models,
    left: &mut BTreeMap<Group, Vec<&Planned>>,
    folder: &Folder,
    out: &Path,
    options: &Options,
    work: Work,
) -> Result<()> {
    let (model, _) = models.values().next().context("a model")?;
    let size = model.size(options.size)?;
    // All that can be seen of all of them first. Weights are read when a painter paints.
    let kind = |p: &&Planned| (p.strength.to_bits(), p.guidance.to_bits());
    left.values_mut().for_each(|own| own.sort_by_key(kind));
    let painter = |group: &Group| Ok((group.clone(), batches::painter(gpu, models, group)?));
    let mut painters: BTreeMap<Group, Painter> = left.keys().map(painter).collect::<Result<_>>()?;
    let files: Vec<PathBuf> = left.values().flatten().map(|p| out.join(&p.picture.file_name)).collect();
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    folders.into_iter().try_for_each(writable_folder)?;
    let pixels: usize = options.saved_size.unwrap_or(size).iter().product();
    room_for(out, files.len() as u64 * (3 * pixels + TEXTS) as u64)?;

    let scheduler = model.scheduler(options.scheduler.as_deref())?;
    let (mut steps, mut batches) = (0, vec![]);
    for (group, own) in &*left {
        let painter = painters.get_mut(group).context("a painter for each group")?;
        say_how(gpu, &models[&group.domain].0, painter, own.len(), options)?;
        let alike = own.chunk_by(|a, b| kind(a) == kind(b));
        let n = painter.batch();
        batches.extend(alike.flat_map(|own| own.chunks(n)).map(|pictures| Batch { group, pictures }));
        for p in own {
            let points = match p.picture.init {
                Some(_) => scheduler.points_from(options.steps, p.strength)?,
                None => scheduler.points(options.steps)?,
            };
            steps += points.timesteps.len() as u64;
        }
    }
    if let Some(preview) = work.preview {
        eprintln!("a preview every {preview} steps: {}", out.join(preview::FILE).display());
    }
    let progress = Progress::new("images", steps, "image steps");
    let shown = (work.preview.map(NonZeroUsize::get), progress);
    let queue = Queue::new(batches, folder, (options, size), out, shown);
    let painted = queue.paint(painters, work.beside);
    // What has no preview any more has a picture.
    let _ = fs::remove_file(out.join(preview::FILE));
    painted?;
    queue.progress.finish();
    Ok(())
}

/// Says what a group of pictures takes.
fn say_how(gpu: &Gpu, model: &Model, painter: &mut Painter, left: usize, options: &Options) -> Result<()> {
    let [height, width] = model.size(options.size)?;
    let (adapter, memory, n) = (&gpu.caps().adapter, painter.takes(), painter.batch());
    model.remarks().iter().for_each(|remark| eprintln!("{remark}"));
    let [decoded, encoded] = painter.tiles();
    let tiles = |how: &str, side: Option<usize>| {
        side.map_or(String::new(), |side| format!(", {how} in tiles of {side}"))
    };
    let tile = tiles("decoded", decoded) + &tiles("encoded", encoded);
    eprintln!(
        "{adapter}: {memory}{tile}; {left} images of {width}x{height} in {} steps, {n} at once",
        options.steps
    );
    Ok(())
}

/// Says which words of prompts do not reach the images, since the text encoder cuts what is too long: most often the style, which stands
/// last.
fn warn_of_long_prompts(readers: &Readers, all: &[&Planned], negative: &str) -> Result<()> {
    let mut lost = vec![];
    for planned in all {
        let words = readers[&planned.domain].lost(&planned.picture.prompt)?.trim().to_string();
        lost.extend((!words.is_empty()).then(|| format!("{words:?} of {}", planned.picture.file_name)));
    }
    let Some(reader) = readers.values().next() else { return Ok(()) };
    let words = reader.lost(negative)?.trim().to_string();
    let tokens = reader.ids(negative)?[0].len();
    if !words.is_empty() {
        eprintln!(
            "warning: --negative is longer than the {tokens} tokens that the text encoder reads: it loses {words:?} \
             (--long-prompts chunk reads all)"
        );
    }
    if !lost.is_empty() {
        let more = if lost.len() > SHOWN { ", .." } else { "" };
        let (number, all) = (lost.len(), all.len());
        lost.truncate(SHOWN);
        eprintln!(
            "warning: {number} of {all} prompts are longer than the {tokens} tokens that the text encoder reads, and lose their ends: \
             {}{more} (--long-prompts chunk reads all)",
            lost.join(", ")
        );
    }
    Ok(())
}

/// A number by way of its text, so that 1.1 does not become 1.10000002.
fn exact(number: f32) -> Result<f64> {
    Ok(number.to_string().parse()?)
}

/// The last part of a path, wherever it leads; a name on the hub stays whole.
fn file_name(path: &Path) -> String {
    if hub::is_name(path) {
        return path.display().to_string();
    }
    let path = path.canonicalize().unwrap_or(path.to_path_buf());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How an image is made: its row of `metadata.jsonl`.
fn metadata(
    model: &Model,
    folder: &Folder,
    Planned { picture, guidance, strength, chunks, .. }: &Planned,
    options: &Options,
) -> Result<Map<String, Value>> {
    let [height, width] = options.saved_size.unwrap_or(model.size(options.size)?);
    let name = match folder {
        Folder::Disk(_) if hub::is_name(&options.model) => options.model.display().to_string(),
        Folder::Disk(path) => file_name(path),
        Folder::Embedded(..) => "builtin".into(),
    };
    let scheduler = model.scheduler(options.scheduler.as_deref())?.name();
    let painted = options.saved_size.and(Some(model.size(options.size)?)).map(|[h, w]| format!("{w}x{h}"));
    let words: Vec<String> = options.embedding.iter().map(|path| file_name(path)).collect();
    let loras: Vec<String> =
        options.lora.iter().map(|lora| format!("{}:{}", file_name(&lora.path), lora.weight)).collect();
    let row = json!({
        "file_name": picture.file_name, "domain": picture.domain, "class": picture.class, "prompt": picture.prompt,
        "negative_prompt": Some(&options.negative).filter(|n| !n.is_empty()),
        "seed": picture.seed, "steps": options.steps,
        "init": picture.init.as_deref().map(named), "described": picture.described,
        "strength": picture.init.as_ref().map(|_| exact(*strength)).transpose()?,
        "guidance": exact(*guidance)?,
        "scheduler": scheduler, "width": width, "height": height, "painted_size": painted, "model": name,
        "vae": options.vae.as_deref().map(file_name), "text_encoder": options.text_encoder.as_deref().map(file_name),
        "prediction_type": options.prediction_type, "clip_skip": Some(options.clip_skip).filter(|&k| k != 1),
        "guidance_rescale": Some(exact(options.guidance_rescale)?).filter(|&share| share != 0.0),
        "long_prompts": Some("chunk").filter(|_| *chunks > 1),
        "rng": Some(options.rng).filter(|&rng| rng != Rng::Torch),
        "embedding": Some(&words).filter(|words| !words.is_empty()), "lora": Some(loras).filter(|loras| !loras.is_empty()),
    });
    let Value::Object(mut row) = row else { unreachable!("an object") };
    row.retain(|_, v| !v.is_null());
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_picture_was_made_with_keeps_its_name_on_the_hub_and_loses_the_folders_of_this_machine() {
        assert_eq!(file_name(Path::new("hf:me/ink:ink.safetensors")), "hf:me/ink:ink.safetensors");
        assert_eq!(file_name(Path::new("somewhere/ink.safetensors")), "ink.safetensors");
    }
}
