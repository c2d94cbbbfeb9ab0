//! Images from prompts: PNG files that say how they were made, and a `metadata.jsonl` that Hugging Face's `imagefolder` reads.

use crate::core::Gpu;
use crate::data::folder::Folder;
use crate::data::{writable_folder, write_atomic};
use crate::engines::painter::{Model, Options, Painter, Request};
use crate::progress::{self, Progress};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};

/// One image to paint: a line of `prompts.jsonl`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Job {
    /// What it shows.
    pub prompt: String,
    /// Where it goes, below the output folder.
    #[serde(default)]
    pub file_name: String,
    /// Decides its noise.
    pub seed: Option<u64>,
    /// Folder name of the domain, for the metadata.
    pub domain: Option<String>,
    /// Folder name of the class, for the metadata.
    pub class: Option<String>,
}

/// Reads `prompts.jsonl`. Rows without `file_name` go to `NUMBER.png`.
///
/// # Errors
/// A file that cannot be read, a line that is no such row; file and line are named.
pub fn read_jobs(path: &Path) -> Result<Vec<Job>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot read the prompts", path.display()))?;
    let (mut jobs, mut seen) = (Vec::<Job>::new(), HashSet::new());
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = || format!("{}, line {}", path.display(), i + 1);
        let mut job: Job = serde_json::from_slice(line).map_err(|e| {
            // The parser counts lines within the line.
            let what = e.to_string().replace(" at line 1 column", " at column");
            anyhow!("{}: {what}; a line is {{\"prompt\": .., \"file_name\": .., \"seed\": ..}}", place())
        })?;
        if job.file_name.is_empty() {
            job.file_name = format!("{:05}.png", jobs.len());
        }
        check_job(&job, &mut seen).with_context(place)?;
        jobs.push(job);
    }
    if jobs.is_empty() {
        bail!("{}: no prompts in it", path.display());
    }
    Ok(jobs)
}

/// What [`run`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Images painted now.
    pub painted: usize,
    /// Images that an earlier run had painted.
    pub kept: usize,
}

/// Paints `jobs` with the model in `folder` into `out`; the n-th job without a seed takes `seed` + n. An image that is already
/// there and says that it was made in the same way is kept, so a run that was stopped goes on where it was, to the same bytes.
///
/// # Errors
/// A model or options that do not work, a folder that cannot be written, Ctrl-C.
pub fn run(
    gpu: &Gpu,
    folder: &Folder,
    jobs: &[Job],
    out: &Path,
    options: &Options,
    seed: u64,
) -> Result<Summary> {
    let model = Model::open(folder)?;
    let mut seen = HashSet::new();
    jobs.iter().try_for_each(|job| check_job(job, &mut seen))?;
    let made = jobs
        .iter()
        .enumerate()
        .map(|(i, job)| made(&model, folder, job, seed.wrapping_add(i as u64), options))
        .collect::<Result<Vec<_>>>()?;
    let left: Vec<usize> =
        (0..jobs.len()).filter(|&i| !is_painted(&out.join(&jobs[i].file_name), &made[i])).collect();
    let summary = Summary { painted: left.len(), kept: jobs.len() - left.len() };

    if !left.is_empty() {
        // A plan for as many images as the whole run has, so that a run that goes on uses the same kernels.
        let mut painter = Painter::new(gpu, &model, options, jobs.len())?;
        let folders: BTreeSet<PathBuf> = left
            .iter()
            .map(|&i| out.join(&jobs[i].file_name).parent().map_or(PathBuf::new(), Path::to_path_buf))
            .collect();
        folders.iter().try_for_each(writable_folder)?;
        let steps = model.scheduler(options.scheduler.as_deref())?.points(options.steps)?.timesteps.len();
        let progress = Progress::new("images", (jobs.len() * steps) as u64, "image steps");
        progress.skip((summary.kept * steps) as u64);
        let [height, width] = model.size(options.size)?;
        for batch in left.chunks(painter.batch()) {
            let seed_of = |i: usize| jobs[i].seed.unwrap_or(seed.wrapping_add(i as u64));
            let requests: Vec<Request> =
                batch.iter().map(|&i| Request { prompt: &jobs[i].prompt, seed: seed_of(i) }).collect();
            let images = painter.paint(&requests, || {
                progress.inc(batch.len() as u64);
                progress::bail_if_stopped()
            })?;
            for (&i, pixels) in batch.iter().zip(&images) {
                let path = out.join(&jobs[i].file_name);
                let png = encode_png(pixels, width, height, &text_chunks(&made[i]))
                    .with_context(|| format!("{}: cannot encode", path.display()))?;
                write_atomic(&path, &png)?;
            }
        }
        progress.finish();
    }
    let lines: Vec<String> = made.iter().map(|row| Value::Object(row.clone()).to_string() + "\n").collect();
    write_atomic(out.join("metadata.jsonl"), lines.concat().as_bytes())?;
    Ok(summary)
}

/// File names must be different from all in `seen`, end in .png, and stay below the output folder.
fn check_job(job: &Job, seen: &mut HashSet<PathBuf>) -> Result<()> {
    let Job { file_name, prompt, .. } = job;
    let path = PathBuf::from(file_name);
    let below = path.components().all(|c| matches!(c, Component::Normal(_)));
    if !below || path.extension().is_none_or(|e| e != "png") || file_name.contains('\0') {
        bail!("file_name {file_name:?} must be the name of a .png file below the output folder");
    }
    if prompt.contains('\0') {
        bail!("the prompt of {file_name} contains a zero byte");
    }
    // Paths are compared by their parts: a//b.png is a/b.png.
    if !seen.insert(path) {
        bail!("file_name {file_name:?} is there twice");
    }
    Ok(())
}

/// How an image is made: its row of `metadata.jsonl`.
fn made(
    model: &Model,
    folder: &Folder,
    job: &Job,
    seed: u64,
    options: &Options,
) -> Result<Map<String, Value>> {
    let [height, width] = model.size(options.size)?;
    let name = match folder {
        Folder::Disk(path) => path.canonicalize().unwrap_or(path.clone()),
        Folder::Embedded(..) => "builtin".into(),
    };
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let scheduler = model.scheduler(options.scheduler.as_deref())?.name();
    let row = json!({
        "file_name": job.file_name, "domain": job.domain, "class": job.class, "prompt": job.prompt,
        "negative_prompt": Some(&options.negative).filter(|n| !n.is_empty()),
        "seed": job.seed.unwrap_or(seed), "steps": options.steps,
        // By way of its text, so that 1.1 does not become 1.10000002.
        "guidance": options.guidance.to_string().parse::<f64>()?,
        "scheduler": scheduler, "width": width, "height": height, "model": name,
    });
    let Value::Object(mut row) = row else { unreachable!("an object") };
    row.retain(|_, v| !v.is_null());
    Ok(row)
}

/// The text chunks of an image: what [`made`] it, but for where it lies and how large it is.
fn text_chunks(made: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let not_here = ["file_name", "domain", "class", "width", "height"];
    made.iter().filter(|(k, _)| !not_here.contains(&k.as_str())).map(|(k, v)| (k.clone(), text(v))).collect()
}

/// Whether the file is whole and says that it was `made` so.
fn is_painted(path: &Path, made: &Map<String, Value>) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(mut reader) = png::Decoder::new(BufReader::new(file)).read_info() else { return false };
    if made["width"] != reader.info().width || made["height"] != reader.info().height {
        return false;
    }
    // All of it: a file may have been cut after its texts.
    let mut pixels = vec![0; reader.output_buffer_size().unwrap_or(0)];
    if reader.next_frame(&mut pixels).is_err() {
        return false;
    }
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
    let utf8 = info.utf8_text.iter().map(|c| (c.keyword.clone(), c.get_text().unwrap_or_default()));
    latin.chain(utf8).collect::<BTreeMap<_, _>>() == text_chunks(made)
}

/// An RGB image as PNG. Texts that are not plain ASCII go to international chunks.
fn encode_png(
    pixels: &[u8],
    width: usize,
    height: usize,
    chunks: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    for (key, text) in chunks {
        match text.is_ascii() {
            true => encoder.add_text_chunk(key.clone(), text.clone())?,
            false => encoder.add_itxt_chunk(key.clone(), text.clone())?,
        }
    }
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}
