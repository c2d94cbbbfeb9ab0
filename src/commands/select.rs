//! `kaleid select`

use anyhow::{Result, bail};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::chosen::Action;
use kaleid::study::score::{Measure, Scoring};
use kaleid::study::select::{self, Rules};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Judge painted images by CLIP and by their neighbours: which count, and why
///
/// Each image's row of DIR/metadata.jsonl gets what was found and what becomes of it. `score` and `train` leave out what is dropped, and
/// what a line of DIR/review.jsonl rejects.
#[derive(clap::Args)]
#[command(after_help = "Example:
  kaleid select --data PACS --hold-out sketch --generated runs/pacs/images --clip clip-vit-base-patch32 --action drop")]
pub struct Args {
    /// The originals: ROOT/DOMAIN/CLASS/image
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Generated images: DIR/DOMAIN/CLASS/image
    #[arg(long, value_name = "DIR")]
    generated: PathBuf,
    /// A domain for the test, which is not looked at; may be given again
    #[arg(long, value_name = "DOMAIN")]
    hold_out: Vec<String>,
    /// CLIP folder in Hugging Face's layout; `builtin` is the demo's small one
    #[arg(long, value_name = "DIR")]
    clip: PathBuf,
    #[command(flatten)]
    rules: Rules,
    /// Print an object a line: file_name and its selection
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    args.rules.check()?;
    if args.rules.action == Action::Regenerate {
        bail!(
            "--action regenerate: only `kaleid run` knows how the images are painted: set [select] action there"
        );
    }
    let scoring = Scoring {
        data: args.data,
        generated: args.generated,
        hold_out: args.hold_out,
        names: BTreeMap::new(),
        seed: 0,
        measure: Measure { clip: args.clip, ..Measure::default() },
    };
    let nothing = || Ok(());
    let (_, judged) = select::run(&Gpu::open(gpu)?, &scoring, &args.rules, None, &nothing)?;
    if args.json {
        return judged.iter().try_for_each(|(name, row)| {
            say!("{}", serde_json::json!({"file_name": name, "selection": row}))
        });
    }
    say!("{}", select::summary(&judged))
}
