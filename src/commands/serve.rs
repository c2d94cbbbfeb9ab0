//! `kaleid serve`

use anyhow::Result;
use kaleid::serve::Server;
use std::path::PathBuf;

/// A page to watch a run, to pause it and go on, and to judge its images
///
/// Prints the page's address, which only this computer reaches and only its token opens. The run is a process of its own, or over.
#[derive(clap::Args)]
#[command(after_help = "Example:
  kaleid run --review        in one terminal
  kaleid serve               in another")]
pub struct Args {
    /// The --out folder of a `kaleid run`
    #[arg(value_name = "DIR", default_value = "runs/demo")]
    dir: PathBuf,
    /// Port on 127.0.0.1; 0: one that is free
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let server = Server::open(&args.dir, args.port)?;
    say!("{}", server.url())?;
    server.run()
}
