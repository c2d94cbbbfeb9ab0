//! `kaleid prompts`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Name new domains and write prompts
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid prompts` is not built yet")
}
