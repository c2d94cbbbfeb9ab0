//! Painted images as other programs take them: a folder, tables or tars, with a card that says how they were made.

use crate::data::parquet::{Pictured, write as write_table};
use crate::data::{stays_below, text, write_atomic};
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of images in one table or tar, roughly.
const SHARD: u64 = 500 << 20;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// The files below DOMAIN/CLASS, with metadata.jsonl: Hugging Face's `imagefolder`, FiftyOne, torchvision.
    Imagefolder,
    /// Tables with images in them, as the hub shows them.
    Parquet,
    /// Tars of image, class and metadata, for streaming.
    Webdataset,
}

/// One image and its row of metadata.jsonl.
struct Row {
    file: PathBuf,
    name: String,
    metadata: Map<String, Value>,
    bytes: u64,
}

impl Row {
    fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.as_str()
    }

    /// The number of its class.
    fn class(&self, classes: &[&str]) -> Option<usize> {
        let class = self.text("class")?;
        classes.iter().position(|c| *c == class)
    }

    /// Its line of metadata.jsonl.
    fn line(&self) -> String {
        Value::Object(self.metadata.clone()).to_string()
    }
}

/// Writes the images of `dir`, the folder of a run or of `kaleid generate`, into the new folder `out`; how many.
///
/// # Errors
/// A folder without images, images that are missing, an `out` that is there, a full disk, Ctrl-C.
pub fn run(dir: &Path, form: Form, out: &Path) -> Result<usize> {
    if out.exists() {
        bail!("{}: is there already: choose another folder", out.display());
    }
    let rows = rows(dir)?;
    let classes: BTreeSet<&str> = rows.iter().filter_map(|row| row.text("class")).collect();
    let classes: Vec<&str> = classes.into_iter().collect();
    // Beside its place first, so that what is there is whole.
    let temp = PathBuf::from(format!("{}.tmp", out.display()));
    let _ = fs::remove_dir_all(&temp);
    let progress = Progress::new("export", rows.len() as u64, "images");
    let shards = shards(&rows);
    for (i, shard) in shards.iter().enumerate() {
        let numbered = |ending: &str| format!("train-{i:05}-of-{:05}.{ending}", shards.len());
        match form {
            Form::Imagefolder => folder(shard, &temp.join("data/train"), &progress)?,
            Form::Parquet => table(shard, &classes, &temp.join("data").join(numbered("parquet")), &progress)?,
            Form::Webdataset => tar(shard, &classes, &temp.join(numbered("tar")), &progress)?,
        }
    }
    if form == Form::Imagefolder {
        let lines: String = rows.iter().map(|row| row.line() + "\n").collect();
        write_atomic(temp.join("data/train/metadata.jsonl"), lines.as_bytes())?;
    }
    write_atomic(temp.join("README.md"), card(dir, &rows, out)?.as_bytes())?;
    fs::rename(&temp, out).with_context(|| format!("{}: cannot write", out.display()))?;
    progress.finish();
    Ok(rows.len())
}

/// The images of a folder, all of which are there.
fn rows(dir: &Path) -> Result<Vec<Row>> {
    let folders = [dir.join("images"), dir.to_path_buf()];
    let Some(folder) = folders.into_iter().find(|folder| folder.join("metadata.jsonl").is_file()) else {
        bail!("{}: no metadata.jsonl: give the folder of `kaleid run` or `kaleid generate`", dir.display());
    };
    let place = folder.join("metadata.jsonl");
    let (mut rows, mut missing) = (vec![], vec![]);
    for (i, line) in text::read(&place)?.lines().enumerate() {
        let wrong = || format!("{}, line {}: no painted image", place.display(), i + 1);
        let metadata: Map<String, Value> = text::json(line).with_context(wrong)?;
        let name = metadata.get("file_name").and_then(Value::as_str).with_context(wrong)?.to_string();
        if name.is_empty() || !stays_below(Path::new(&name)) {
            bail!("{}, line {}: file_name {name:?} is not below the folder", place.display(), i + 1);
        }
        let file = folder.join(&name);
        match fs::metadata(&file) {
            Ok(found) => rows.push(Row { file, name, metadata, bytes: found.len() }),
            Err(_) => missing.push(name),
        }
    }
    if let Some(first) = missing.first() {
        let (n, place) = (missing.len(), folder.display());
        bail!("{place}: {n} images of metadata.jsonl are not there, such as {first}: paint them first");
    }
    if rows.is_empty() {
        bail!("{}: no images", place.display());
    }
    Ok(rows)
}

/// Rows in pieces of about [`SHARD`] bytes.
fn shards(rows: &[Row]) -> Vec<&[Row]> {
    let (mut all, mut start, mut bytes) = (vec![], 0, 0);
    for (i, row) in rows.iter().enumerate() {
        if bytes > 0 && bytes + row.bytes > SHARD {
            all.push(&rows[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += row.bytes;
    }
    all.push(&rows[start..]);
    all
}

fn read(row: &Row) -> Result<Vec<u8>> {
    bail_if_stopped()?;
    fs::read(&row.file).with_context(|| format!("{}: cannot read", row.file.display()))
}

fn folder(rows: &[Row], out: &Path, progress: &Progress) -> Result<()> {
    for row in rows {
        write_atomic(out.join(&row.name), &read(row)?)?;
        progress.inc(1);
    }
    Ok(())
}

fn table(rows: &[Row], classes: &[&str], out: &Path, progress: &Progress) -> Result<()> {
    let pictured = |row: &Row| {
        let text = |key: &str| row.text(key).map(str::to_string);
        let (class, domain, prompt) = (row.class(classes), text("domain"), text("prompt"));
        let metadata = row.line();
        progress.inc(1);
        Ok(Pictured { bytes: read(row)?, path: row.name.clone(), class, domain, prompt, metadata })
    };
    write_table(out, &rows.iter().map(pictured).collect::<Result<Vec<_>>>()?, classes)
}

/// Each image as KEY.png, the number of its class as KEY.cls, its metadata as KEY.json.
fn tar(rows: &[Row], classes: &[&str], out: &Path, progress: &Progress) -> Result<()> {
    let mut tar = tar::Builder::new(vec![]);
    for row in rows {
        // A key may hold no other dot, since the ending begins at the first.
        let key = Path::new(&row.name).with_extension("").to_string_lossy().replace('.', "_");
        let parts = [
            ("png", Some(read(row)?)),
            ("cls", row.class(classes).map(|class| class.to_string().into_bytes())),
            ("json", Some(row.line().into_bytes())),
        ];
        for (ending, bytes) in parts.into_iter().filter_map(|(ending, bytes)| Some((ending, bytes?))) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{key}.{ending}"), &bytes[..])
                .with_context(|| format!("{}: cannot add {key}", out.display()))?;
        }
        progress.inc(1);
    }
    write_atomic(out, &tar.into_inner().with_context(|| format!("{}: cannot write", out.display()))?)
}

/// The data set's card: what is in it and how it was made.
fn card(dir: &Path, rows: &[Row], out: &Path) -> Result<String> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in rows {
        *counts.entry((row.text("domain").unwrap_or("-"), row.text("class").unwrap_or("-"))).or_default() +=
            1;
    }
    let counts: String =
        counts.iter().map(|((domain, class), n)| format!("| {domain} | {class} | {n} |\n")).collect();
    let keys = [
        "model",
        "vae",
        "text_encoder",
        "lora",
        "embedding",
        "scheduler",
        "steps",
        "guidance",
        "negative_prompt",
        "strength",
        "width",
        "height",
        "painted_size",
    ];
    let said = |key: &&str| {
        let values: BTreeSet<String> =
            rows.iter().filter_map(|row| row.metadata.get(*key)).map(|value| value.to_string()).collect();
        let values: Vec<String> = values.into_iter().take(8).collect();
        (!values.is_empty()).then(|| format!("- {key}: {}\n", values.join(", ")))
    };
    let settings: String = keys.iter().filter_map(said).collect();
    let seeds: Vec<u64> = rows.iter().filter_map(|row| row.metadata.get("seed")?.as_u64()).collect();
    let seeds = format!("{} to {}", seeds.iter().min().unwrap_or(&0), seeds.iter().max().unwrap_or(&0));
    let run = dir.join("run.toml");
    let run = match run.exists() {
        true => format!("\n## The whole configuration\n```toml\n{}\n```\n", text::read(run)?.trim_end()),
        false => String::new(),
    };
    Ok(format!(
        "---\npretty_name: {name}\ntask_categories:\n- image-classification\ntags:\n- synthetic\n- kaleid\n---\n\
         # {name}\n\n{} images that a diffusion model painted from prompts, by Kaleid {}. None was selected: all that were painted are here.\n\n\
         ## How they were made\n{settings}- seeds: {seeds}; each image's is in its metadata, as its prompt is\n\n\
         ## Licence\nWhat the licence of the model above says of its outputs. People who publish this data set add that here; a model may repeat\n\
         pictures that it was trained on.\n\n\
         ## What is in it\n| domain | class | images |\n|---|---|---|\n{counts}{run}",
        rows.len(),
        env!("CARGO_PKG_VERSION"),
    ))
}
