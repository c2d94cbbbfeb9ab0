//! The `kaleid` command. Each subcommand lives in `commands/`.

mod commands;

use clap::{Parser, Subcommand};

/// A few image domains in, many out: paint new domains with Stable Diffusion, measure their diversity, train and test on
/// a domain never seen. Every kernel is WGSL; runs on any Vulkan, Metal or DX12 GPU.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {}

fn main() -> std::process::ExitCode {
    match Cli::parse().command {}
}
