//! `kaleid bench`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Time kernels and models
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid bench` is not built yet")
}
