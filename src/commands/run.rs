//! `kaleid run`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Everything, from a data set to a report; without a configuration, the built-in demo
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid run` is not built yet")
}
