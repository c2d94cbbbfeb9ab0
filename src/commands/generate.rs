//! `kaleid generate`

use anyhow::Result;
use kaleid::core::{Gpu, GpuOptions};
use kaleid::engines::options::Options;
use kaleid::paint::generate::{self, Shard, Work};
use kaleid::paint::origins;
use kaleid::paint::picture::{Picture, read_pictures};
use kaleid::study::demo;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Paint images from prompts
///
/// Example: kaleid generate --model stable-diffusion-v1-5 --prompt "a pencil sketch of a dog" --out images
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["prompts", "prompt"])))]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// File with one prompt per line: {"prompt": .., "file_name": .., "seed": ..}
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// One prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Folder for the images and metadata.jsonl; the same command in the same folder resumes where it was stopped
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Paint from this image, by --strength
    #[arg(long, value_name = "FILE", conflicts_with = "init_from")]
    init: Option<PathBuf>,
    /// Paint each picture from an original of its class in this data set, by --strength: labels stay, domains change
    #[arg(long, value_name = "ROOT", requires = "prompts")]
    init_from: Option<PathBuf>,
    /// Domains of --init-from from which no picture is painted: those that are only tested on
    #[arg(long, value_name = "DOMAIN", num_args = 1.., requires = "init_from")]
    hold_out: Vec<String>,
    /// Paint the I-th of N parts of the prompts, from 1/N to N/N: the parts together are what one run makes, to the bit
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
    /// Adapters by number or name that paint at the same time; those of one kind paint the same images [default: the one of --adapter]
    #[arg(long, value_delimiter = ',', value_name = "NAME|INDEX")]
    adapters: Vec<String>,
    /// Show what is painted after every N steps: OUT/.preview.png
    #[arg(long, value_name = "N")]
    preview: Option<NonZeroUsize>,
    /// Seed of the first image that has none of its own; the next takes the next number
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parsed {
        Some((part @ 1.., of)) if part <= of => Ok(Shard { part, of }),
        _ => Err("a part is I/N, from 1/N to N/N".into()),
    }
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let mut pictures = match (&args.prompts, args.prompt) {
        (Some(file), _) => read_pictures(file)?,
        (None, prompt) => {
            let prompt = prompt.unwrap_or_default();
            vec![Picture {
                prompt,
                file_name: "00000.png".into(),
                seed: None,
                domain: None,
                class: None,
                init: None,
                described: None,
            }]
        }
    };
    if let Some(init) = &args.init {
        pictures
            .iter_mut()
            .filter(|picture| picture.init.is_none())
            .for_each(|picture| picture.init = Some(init.clone()));
    }
    if let Some(root) = &args.init_from {
        origins::assign(&mut pictures, root, &args.hold_out, args.seed)?;
    }
    let adapters = gpu.each(args.adapters);
    let gpu = Gpu::open(&adapters[0])?;
    let folder = demo::folder(&args.options.model, "stable-diffusion")?;
    let work = Work { shard: args.shard, beside: &adapters[1..], preview: args.preview };
    let summary = generate::run(&gpu, &folder, &pictures, &args.out, &args.options, args.seed, work)?;
    let kept = if summary.kept > 0 { format!(", {} were there", summary.kept) } else { String::new() };
    say!("{} images painted{kept}: {}", summary.painted, args.out.display())
}
