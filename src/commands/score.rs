//! `kaleid score`

use anyhow::Result;
use kaleid::core::{Gpu, GpuOptions};
use kaleid::study::score::{self, Scoring};
use std::path::PathBuf;

/// Measure the diversity that generated images add
#[derive(clap::Args)]
#[command(after_help = "Example:
  kaleid score --data PACS --hold-out sketch --generated runs/pacs/images --clip clip-vit-base-patch32 --out runs/pacs")]
pub struct Args {
    #[command(flatten)]
    scoring: Scoring,
    /// Folder for diversity.json and diversity.svg
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print diversity.json
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let found = score::run(&Gpu::open(gpu)?, &args.scoring, &args.out)?;
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
