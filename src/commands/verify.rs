//! `kaleid verify`

use anyhow::{Result, bail};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::verify::{Outcome, verify};
use std::path::PathBuf;

/// Compare the models with reference tensors
///
/// Example: kaleid verify goldens --json
#[derive(clap::Args)]
pub struct Args {
    /// Folder of goldens [default: the small ones inside this program]
    golden_dir: Option<PathBuf>,
    /// Only the models that paint and score, with f16 matrices and activations as on a GPU, within 2e-2
    #[arg(long)]
    f16: bool,
    /// Print one JSON array instead of lines
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let gpu = Gpu::open(gpu)?;
    if !args.json {
        say!("{}", gpu.caps().adapter)?;
    }
    let rows = verify(&gpu, args.golden_dir.as_deref(), args.f16, |row| match args.json {
        true => Ok(()),
        false => say!("{row}"),
    })?;
    if args.json {
        let rows: Vec<_> = rows.iter().map(|row| row.json()).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?)?;
    }
    let wrong = rows.iter().filter(|r| matches!(r.outcome, Outcome::Fail(_))).count();
    if wrong > 0 {
        bail!("{wrong} of {} goldens do not hold", rows.len());
    }
    Ok(())
}
