//! `kaleid info`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// List adapters, limits, abilities, and the kernel variants chosen
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid info` is not built yet")
}
