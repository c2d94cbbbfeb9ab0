//! `kaleid verify`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Run the models against reference tensors
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid verify` is not built yet")
}
