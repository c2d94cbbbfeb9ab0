//! `kaleid export`

use anyhow::Result;
use kaleid::paint::export::{self, Form};
use std::path::PathBuf;

/// Write painted images as other programs take them, with a card of the data set
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid export runs/demo --to parquet --out emoji        for the Hugging Face hub
  kaleid export images --to webdataset --out tars         for streaming")]
pub struct Args {
    /// Folder of `kaleid run` or `kaleid generate`
    dir: PathBuf,
    /// What is written
    #[arg(long, value_enum, value_name = "FORM")]
    to: Form,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let images = export::run(&args.dir, args.to, &args.out)?;
    say!("{images} images: {}", args.out.display())
}
