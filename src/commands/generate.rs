//! `kaleid generate`

use anyhow::{Result, bail};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::engines::painter::Options;
use kaleid::paint::generate::{self, Job};
use kaleid::study::demo;
use std::path::PathBuf;

/// Paint images from prompts
///
/// Example: kaleid generate --model stable-diffusion-v1-5 --prompt "a pencil sketch of a dog" --out images
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["prompts", "prompt"])))]
pub struct Args {
    /// Stable Diffusion folder in diffusers' layout; `builtin` is the demo's small one
    #[arg(long)]
    model: PathBuf,
    /// File with a prompt a line: {"prompt": .., "file_name": .., "seed": ..}
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// One prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Folder for the images and metadata.jsonl; the same command in the same folder goes on where it was stopped
    #[arg(long)]
    out: PathBuf,
    /// Steps of the scheduler
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Classifier-free guidance; low values give more varied images, 1 is without and twice as fast
    #[arg(long, default_value_t = 2.0)]
    guidance: f32,
    /// ddim, pndm, euler, euler-karras, euler-a, dpmpp-2m, dpmpp-2m-karras, lcm or ddpm; the model's own by default
    #[arg(long)]
    scheduler: Option<String>,
    /// Seed of the first image that has none of its own; the next takes the next number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Size of the images: 512, or WIDTHxHEIGHT; what the model was trained on by default
    #[arg(long, value_parser = parse_size)]
    size: Option<[usize; 2]>,
    /// Images painted at once
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// What the images should not show
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative: String,
}

/// "512" or "768x512" as height and width.
fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    match (height.parse(), width.parse()) {
        (Ok(height @ 1..=8192), Ok(width @ 1..=8192)) => Ok([height, width]),
        _ => Err("a size is a number like 512, or WIDTHxHEIGHT like 768x512".into()),
    }
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    if !args.guidance.is_finite() || args.guidance < 0.0 {
        bail!("--guidance {} must be a number from 0", args.guidance);
    }
    let jobs = match (&args.prompts, args.prompt) {
        (Some(file), _) => generate::read_jobs(file)?,
        (None, prompt) => {
            let prompt = prompt.unwrap_or_default();
            vec![Job { prompt, file_name: "00000.png".into(), seed: None, domain: None, class: None }]
        }
    };
    let options = Options {
        size: args.size,
        batch: args.batch.map(usize::from),
        steps: args.steps,
        guidance: args.guidance,
        scheduler: args.scheduler,
        negative: args.negative,
    };
    let gpu = Gpu::open(gpu)?;
    let folder = demo::folder(&args.model, "stable-diffusion");
    let summary = generate::run(&gpu, &folder, &jobs, &args.out, &options, args.seed)?;
    let kept = if summary.kept > 0 { format!(", {} were there", summary.kept) } else { String::new() };
    say!("{} images painted{kept}: {}", summary.painted, args.out.display())
}
