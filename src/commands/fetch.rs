//! `kaleid fetch`

use anyhow::Result;
use kaleid::hub::{self, in_words};
use serde_json::json;

/// Fetch a model or data set from the Hugging Face hub, into the cache that Python's tools share
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid fetch sd15                       Stable Diffusion 1.5; also sd21, sd-turbo, lcm, taesd, clip-b32, resnet50, pacs, ..
  kaleid fetch hf:OWNER/NAME@REVISION     what this program opens of a repository
  kaleid fetch hf:OWNER/NAME:FILE         one file
HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean elsewhere. Wherever a command takes the path of a
model, hf:OWNER/NAME will do, and is fetched when it is missing.")]
pub struct Args {
    /// hf:[datasets/]OWNER/NAME[@REVISION][:FILE], or a short name
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
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
    for (text, name) in args.names.iter().zip(&names) {
        let found = hub::fetch(name, args.dry_run)?;
        let bytes: u64 = found.files.iter().map(|(_, bytes)| bytes).sum();
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
            say!("{}", found.path.display())?;
        }
    }
    Ok(())
}
