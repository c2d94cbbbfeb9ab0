//! `kaleid train`

use anyhow::{Result, bail};
use kaleid::core::GpuOptions;

/// Train and test with a DomainBed algorithm
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _gpu: &GpuOptions) -> Result<()> {
    bail!("`kaleid train` is not built yet")
}
