//! `kaleid report`

use anyhow::Result;
use kaleid::core::GpuOptions;
use std::path::PathBuf;

/// Write the report.html of a run
#[derive(clap::Args)]
#[command(after_help = "Example:
  kaleid report runs/demo")]
pub struct Args {
    /// The --out folder of a `kaleid run`, finished or not
    dir: PathBuf,
}

/// Runs the command.
pub fn run(args: Args, _gpu: &GpuOptions) -> Result<()> {
    say!("{}", kaleid::study::report::run(&args.dir)?.display())
}
