//! `kaleid generate`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Paint images from prompts
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid generate` is not built yet")
}
