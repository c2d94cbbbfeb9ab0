//! `kaleid report`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Write report.html of a run
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid report` is not built yet")
}
