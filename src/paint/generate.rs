//! Images from prompts: PNG files that say how they were made, and a `metadata.jsonl` that Hugging Face's `imagefolder` reads.

use super::painted::{encode, is_painted};
use super::picture::{Names, Picture};
use crate::core::Gpu;
use crate::data::disk::room_for;
use crate::data::folder::Folder;
use crate::data::image::Rgb;
use crate::data::{writable_folder, write_atomic};
use crate::engines::model::Model;
use crate::engines::options::{Options, Rng};
use crate::engines::painter::{Painter, Request};
use crate::hub;
use crate::progress::{self, Progress};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};

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

/// Paints `pictures`, or the share of `shard`, with the model in `folder` into `out`; the n-th picture without a seed takes `seed` + n. An
/// image that is already there and says that it was made in the same way is kept, so that a stopped run resumes, to the same bytes.
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
    shard: Option<Shard>,
) -> Result<Summary> {
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
    // A model for each domain with LoRAs of its own.
    let mut models = BTreeMap::new();
    for domain in domains {
        let options = options.for_domain(domain.as_deref());
        models.insert(domain, (Model::open(folder, &options)?, options));
    }
    let mut all = vec![];
    for (i, picture) in pictures.iter().enumerate() {
        let domain = own(picture);
        let picture = Picture { seed: picture.seed.or(Some(seed.wrapping_add(i as u64))), ..picture.clone() };
        let (model, options) = &models[&domain];
        all.push(Planned { metadata: metadata(model, folder, &picture, options)?, picture, domain });
    }
    let is_there = |p: &Planned| {
        let file = File::open(out.join(&p.picture.file_name));
        file.is_ok_and(|file| is_painted(BufReader::new(file), &p.metadata))
    };
    let plans = all;
    let shares = plans.iter().enumerate();
    let own = |i: usize| shard.is_none_or(|shard| i % shard.of == shard.part - 1);
    let all: Vec<&Planned> = shares.filter(|(i, _)| own(*i)).map(|(_, planned)| planned).collect();
    let mut painted = 0;
    for (domain, (model, options)) in &models {
        let (of_domain, is_left) = (all.iter().filter(|p| p.domain == *domain), |p: &&Planned| !is_there(p));
        let left: Vec<&Planned> = of_domain.copied().filter(is_left).collect();
        if !left.is_empty() {
            // As many at once as an unsharded run has, for the same kernels.
            let in_all = plans.iter().filter(|p| p.domain == *domain).count();
            paint(gpu, model, &left, in_all, out, options)?;
        }
        painted += left.len();
    }
    // Each part writes the lines of all: those of the others are what they will be.
    let line = |p: &Planned| Value::Object(p.metadata.clone()).to_string() + "\n";
    write_atomic(out.join("metadata.jsonl"), plans.iter().map(line).collect::<String>().as_bytes())?;
    Ok(Summary { painted, kept: all.len() - painted })
}

/// A picture with a seed, and how it is made.
struct Planned {
    picture: Picture,
    metadata: Map<String, Value>,
    /// Its domain, if there is a LoRA for that.
    domain: Option<String>,
}

/// Paints the pictures that are `left` of `all`.
fn paint(
    gpu: &Gpu,
    model: &Model,
    left: &[&Planned],
    all: usize,
    out: &Path,
    options: &Options,
) -> Result<()> {
    // A plan for as many images as the whole run has, so that a resumed run uses the same kernels.
    let from_images = left.iter().any(|planned| planned.picture.init.is_some());
    let mut painter = Painter::new(gpu, model, options, all)?;
    if from_images {
        painter = painter.from_images()?;
    }
    let [height, width] = model.size(options.size)?;
    let n = painter.batch();
    let files: Vec<PathBuf> = left.iter().map(|p| out.join(&p.picture.file_name)).collect();
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    folders.into_iter().try_for_each(writable_folder)?;
    room_for(out, left.len() as u64 * (3 * height * width + TEXTS) as u64)?;
    warn_of_long_prompts(&painter, left, &options.negative)?;
    let memory = painter.needs().map(|(part, needs)| format!("{part} {} MiB", needs.memory.total() >> 20));
    let (adapter, memory, left_of) = (&gpu.caps().adapter, memory.join(", "), left.len());
    model.remarks().iter().for_each(|remark| eprintln!("{remark}"));
    let in_turn = if painter.in_turn() { " in turn" } else { "" };
    let tile = painter.tile().map_or(String::new(), |side| format!(", decoded in tiles of {side}"));
    eprintln!(
        "{adapter}: {memory}{in_turn}{tile}; {left_of} images of {width}x{height} in {} steps, {n} at once",
        options.steps
    );

    let scheduler = model.scheduler(options.scheduler.as_deref())?;
    let points = match from_images {
        true => scheduler.points_from(options.steps, options.strength)?,
        false => scheduler.points(options.steps)?,
    };
    let steps = points.timesteps.len();
    let progress = Progress::new("images", (left.len() * steps) as u64, "image steps");
    for (batch, files) in left.chunks(n).zip(files.chunks(n)) {
        let inits = batch.iter().map(|p| p.picture.init.as_ref().map(Rgb::open).transpose());
        let inits: Vec<Option<Rgb>> = inits.collect::<Result<_>>()?;
        let pictures = batch.iter().map(|p| &p.picture).zip(&inits);
        let requests: Vec<Request> = pictures
            .map(|(p, init)| Request { prompt: &p.prompt, seed: p.seed.unwrap_or(0), init: init.as_ref() })
            .collect();
        let images = painter.paint(&requests, || {
            progress.inc(batch.len() as u64);
            progress::bail_if_stopped()
        })?;
        for ((planned, file), pixels) in batch.iter().zip(files).zip(&images) {
            let png = encode(pixels, width, height, &planned.metadata);
            write_atomic(file, &png.with_context(|| format!("{}: cannot encode", file.display()))?)?;
        }
    }
    progress.finish();
    Ok(())
}

/// Says which words of prompts do not reach the images, since the text encoder cuts what is too long: most often the style, which stands
/// last.
fn warn_of_long_prompts(painter: &Painter, left: &[&Planned], negative: &str) -> Result<()> {
    let mut lost = vec![];
    for planned in left {
        let words = painter.lost(&planned.picture.prompt)?.trim().to_string();
        lost.extend((!words.is_empty()).then(|| format!("{words:?} of {}", planned.picture.file_name)));
    }
    let words = painter.lost(negative)?.trim().to_string();
    let tokens = painter.tokens();
    if !words.is_empty() {
        eprintln!(
            "warning: --negative is longer than the {tokens} tokens that the text encoder reads: it loses {words:?}"
        );
    }
    if !lost.is_empty() {
        let more = if lost.len() > SHOWN { ", .." } else { "" };
        let (number, all) = (lost.len(), left.len());
        lost.truncate(SHOWN);
        eprintln!(
            "warning: {number} of {all} prompts are longer than the {tokens} tokens that the text encoder reads, and lose their ends: \
             {}{more}",
            lost.join(", ")
        );
    }
    Ok(())
}

/// A number by way of its text, so that 1.1 does not become 1.10000002.
fn exact(number: f32) -> Result<f64> {
    Ok(number.to_string().parse()?)
}

/// The image that a picture is painted from: what a data set calls it, DOMAIN/CLASS/image.
fn origin(path: &Path) -> String {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let parts: Vec<_> = named.map(|part| part.as_os_str().to_string_lossy()).collect();
    parts[parts.len().saturating_sub(3)..].join("/")
}

/// The last part of a path, wherever it leads.
fn file_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or(path.to_path_buf());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How an image is made: its row of `metadata.jsonl`.
fn metadata(
    model: &Model,
    folder: &Folder,
    picture: &Picture,
    options: &Options,
) -> Result<Map<String, Value>> {
    let [height, width] = model.size(options.size)?;
    let name = match folder {
        Folder::Disk(_) if hub::is_name(&options.model) => options.model.display().to_string(),
        Folder::Disk(path) => file_name(path),
        Folder::Embedded(..) => "builtin".into(),
    };
    let scheduler = model.scheduler(options.scheduler.as_deref())?.name();
    let words: Vec<String> = options.embedding.iter().map(|path| file_name(path)).collect();
    let loras: Vec<String> =
        options.lora.iter().map(|lora| format!("{}:{}", file_name(&lora.path), lora.weight)).collect();
    let row = json!({
        "file_name": picture.file_name, "domain": picture.domain, "class": picture.class, "prompt": picture.prompt,
        "negative_prompt": Some(&options.negative).filter(|n| !n.is_empty()),
        "seed": picture.seed, "steps": options.steps,
        "init": picture.init.as_deref().map(origin), "strength": picture.init.as_ref().map(|_| exact(options.strength)).transpose()?,
        "guidance": exact(options.guidance)?,
        "scheduler": scheduler, "width": width, "height": height, "model": name,
        "vae": options.vae.as_deref().map(file_name), "text_encoder": options.text_encoder.as_deref().map(file_name),
        "prediction_type": options.prediction_type, "clip_skip": Some(options.clip_skip).filter(|&k| k != 1),
        "guidance_rescale": Some(exact(options.guidance_rescale)?).filter(|&share| share != 0.0),
        "rng": Some(options.rng).filter(|&rng| rng != Rng::Torch),
        "embedding": Some(&words).filter(|words| !words.is_empty()), "lora": Some(loras).filter(|loras| !loras.is_empty()),
    });
    let Value::Object(mut row) = row else { unreachable!("an object") };
    row.retain(|_, v| !v.is_null());
    Ok(row)
}
