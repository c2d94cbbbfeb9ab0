//! `kaleid prompts`

use anyhow::{Context, Result};
use kaleid::core::GpuOptions;
use kaleid::paint::prompts::{self, Grammar, Llm, Prompting, may_fit};

/// Name new domains and write a prompt for each image to come
///
/// Example: kaleid prompts --data PACS --hold-out sketch --llm openai:gpt-4o --out runs/pacs
///
/// Example: kaleid prompts --data PACS --hold-out sketch --domains watercolor,pixel_art --out runs/pacs
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    prompting: Prompting,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let Prompting { out, writing, .. } = &args.prompting;
    let llm = Llm::parse(writing, gpu).context("--llm")?;
    let summary = prompts::run(&args.prompting, &llm, &Grammar::general(), &may_fit)?;
    if !summary.new_domains.is_empty() {
        say!("new domains: {}", summary.new_domains.join(", "))?;
    }
    say!("{} prompts: {}", summary.prompts, out.join("prompts.jsonl").display())
}
