//! `kaleid score`

use anyhow::Result;
use kaleid::core::{Gpu, GpuOptions};
use kaleid::study::{demo, score};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Measure the diversity that generated images add
#[derive(clap::Args)]
#[command(after_help = "Example:
  kaleid score --data PACS --hold-out sketch --generated runs/pacs/images --clip clip-vit-base-patch32 --out runs/pacs")]
pub struct Args {
    /// ROOT/DOMAIN/CLASS/image
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Generated images, DOMAIN/CLASS/image
    #[arg(long, value_name = "DIR")]
    generated: PathBuf,
    /// CLIP folder in Hugging Face's layout; `builtin` is the demo's small one
    #[arg(long, value_name = "DIR")]
    clip: PathBuf,
    /// Folder for diversity.json and diversity.svg
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A domain that does not count, by name; may be given again
    #[arg(long, value_name = "DOMAIN")]
    hold_out: Vec<String>,
    /// Sum of the variances over the embedding's numbers, instead of their mean
    #[arg(long)]
    trace: bool,
    /// Embeddings as CLIP projects them, instead of scaled to length 1
    #[arg(long)]
    unnormalised: bool,
    /// Decides the orders in which images join
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print diversity.json
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let config = score::Config {
        data: args.data,
        generated: args.generated,
        hold_out: args.hold_out,
        names: BTreeMap::new(),
        trace: args.trace,
        unnormalised: args.unnormalised,
        seed: args.seed,
    };
    let found = score::run(&Gpu::open(gpu)?, &demo::folder(&args.clip, "clip"), &config, &args.out)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&found)?)?;
        return Ok(());
    }
    say!("s       Score(s): {}", found.form)?;
    say!("  0 %   {:.6}", found.curve.originals)?;
    for (s, score) in &found.curve.points {
        say!("{:3.0} %   {score:.6}", 100.0 * s)?;
    }
    say!("optimum {}", found.curve.optimum)?;
    let [class, style] = [found.class_agreement, found.style_agreement].map(|share| 100.0 * share);
    say!("CLIP agrees with the prompt: class {class:.0} %, style {style:.0} %")?;
    say!("{}", args.out.join("diversity.svg").display())
}
