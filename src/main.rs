//! The `kaleid` command. Each subcommand lives in `commands/`.

mod commands;

use clap::{Parser, Subcommand};
use kaleid::core::GpuOptions;

/// A few image domains in, many out: paint new domains with Stable Diffusion, measure their diversity, train and test on
/// a domain never seen. Every kernel is WGSL; runs on any Vulkan, Metal or DX12 GPU.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  kaleid run                                        the built-in demo, into runs/demo
  kaleid generate --model DIR --prompt \"a dog\" --out images
  kaleid train --data PACS --test-domain sketch --out runs/sketch")]
struct Cli {
    #[command(flatten)]
    gpu: GpuOptions,
    #[command(subcommand)]
    command: Command,
}

/// What each does, and an example of it, its own file says.
#[derive(Subcommand)]
enum Command {
    Run(commands::run::Args),
    Data(commands::data::Args),
    Prompts(commands::prompts::Args),
    Generate(commands::generate::Args),
    Score(commands::score::Args),
    Train(Box<commands::train::Args>),
    Sweep(commands::sweep::Args),
    Report(commands::report::Args),
    Verify(commands::verify::Args),
    Bench(commands::bench::Args),
    Info(commands::info::Args),
}

fn main() -> std::process::ExitCode {
    // Mesa's layer that picks a default GPU asks the desktop for one, and complains in our name where there is no desktop. We pick
    // the adapter ourselves.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    let cli = Cli::parse_from(std::env::args_os().map(commands::renamed));
    let done = match cli.command {
        Command::Run(args) => commands::run::run(args, &cli.gpu),
        Command::Data(args) => commands::data::run(args),
        Command::Prompts(args) => commands::prompts::run(args, &cli.gpu),
        Command::Generate(args) => commands::generate::run(args, &cli.gpu),
        Command::Score(args) => commands::score::run(args, &cli.gpu),
        Command::Train(args) => commands::train::run(*args, &cli.gpu),
        Command::Sweep(args) => commands::sweep::run(args, &cli.gpu),
        Command::Report(args) => commands::report::run(args, &cli.gpu),
        Command::Verify(args) => commands::verify::run(args, &cli.gpu),
        Command::Bench(args) => commands::bench::run(args, &cli.gpu),
        Command::Info(args) => commands::info::run(args, &cli.gpu),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::ExitCode::from(2)
        }
    }
}
