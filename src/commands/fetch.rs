//! `kaleid fetch`

use anyhow::{Result, bail};
use kaleid::data::parquet;
use kaleid::hub::{self, Fetched, in_words};
use kaleid::progress::{Progress, bail_if_stopped};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Fetch a model or data set from the Hugging Face hub, into the cache that Python's tools share
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid fetch sd15                       Stable Diffusion 1.5; also sd21, sd-turbo, lcm, taesd, clip-b32, resnet50, pacs, ..
  kaleid fetch hf:OWNER/NAME@REVISION     what this program opens of a repository
  kaleid fetch hf:OWNER/NAME:FILE         one file
  kaleid fetch pacs --out PACS            a data set as DOMAIN/CLASS/image
HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean elsewhere. Wherever a command takes the path of a
model, hf:OWNER/NAME will do, and is fetched when it is missing.")]
pub struct Args {
    /// hf:[datasets/]OWNER/NAME[@REVISION][:FILE], or a short name
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// For a data set: write its images here too, as DIR/DOMAIN/CLASS/image
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only say what would be fetched, how large it is, and under which licence
    #[arg(long)]
    dry_run: bool,
    /// Print a line of JSON for each name
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let names: Vec<hub::Name> = args.names.iter().map(|name| name.parse()).collect::<Result<_>>()?;
    if args.out.is_some() && !matches!(&names[..], [name] if name.is_dataset) {
        bail!("--out is for one data set");
    }
    if let Some(out) = args.out.as_ref().filter(|out| out.exists()) {
        bail!("{}: is there already: choose another folder", out.display());
    }
    for (text, name) in args.names.iter().zip(&names) {
        let found = hub::fetch(name, args.dry_run)?;
        let bytes: u64 = found.files.iter().map(|(_, bytes)| bytes).sum();
        if let Some(out) = args.out.as_ref().filter(|_| !args.dry_run) {
            unpack(&found, out)?;
        }
        if args.json {
            let files: Vec<_> =
                found.files.iter().map(|(file, bytes)| json!({"file": file, "bytes": bytes})).collect();
            say!(
                "{}",
                json!({"name": text, "path": found.path, "licence": found.licence, "bytes": bytes, "missing": found.missing,
                    "files": files})
            )?;
            continue;
        }
        if args.dry_run {
            for (file, bytes) in &found.files {
                say!("{:>10}  {file}", in_words(*bytes))?;
            }
            let licence = found.licence.as_deref().unwrap_or("not said");
            let (all, missing) = (in_words(bytes), in_words(found.missing));
            say!("{all} in {} files, {missing} to fetch; licence: {licence}", found.files.len())?;
        } else {
            say!("{}", args.out.as_ref().unwrap_or(&found.path).display())?;
        }
    }
    Ok(())
}

/// Writes the images of a data set's tables.
fn unpack(found: &Fetched, out: &Path) -> Result<()> {
    let mut tables = vec![];
    let mut folders = vec![found.path.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "parquet") {
                tables.push(path);
            }
        }
    }
    tables.sort();
    if tables.is_empty() {
        bail!("{}: no parquet files in it", found.path.display());
    }
    let progress = Progress::new("images", 0, "images");
    parquet::unpack(&tables, out, || {
        progress.inc(1);
        bail_if_stopped()
    })?;
    progress.finish();
    Ok(())
}
