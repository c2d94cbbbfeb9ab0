//! `kaleid score`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Measure the diversity that generated images add
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid score` is not built yet")
}
