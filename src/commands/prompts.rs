//! `kaleid prompts`

use anyhow::{Context, Result};
use kaleid::core::GpuOptions;
use kaleid::paint::prompts::{self, Config, Grammar, Llm};
use std::path::PathBuf;

/// Name new domains and write a prompt for each image to come
///
/// Example: kaleid prompts --data PACS --hold-out sketch --llm openai:gpt-4o --out runs/pacs
///
/// Example: kaleid prompts --data PACS --hold-out sketch --domains watercolor,pixel_art --out runs/pacs
#[derive(clap::Args)]
pub struct Args {
    /// Data set: ROOT/DOMAIN/CLASS/image
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Folder for domains.json and prompts.jsonl; the same command resumes a run that was stopped
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Who writes: template (no network), openai:MODEL (key in OPENAI_API_KEY), the URL of a server that speaks chat
    /// completions (http://localhost:8080/v1; key, if any, in KALEID_LLM_KEY or OPENAI_API_KEY), or local:DIR, a Llama or Qwen2
    /// tuned for instructions, run on this machine
    #[arg(long, value_name = "WHO", default_value = "template")]
    llm: String,
    /// Name of the model behind a URL [default: default]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Number of new domains
    #[arg(long, value_name = "N", default_value_t = 2)]
    new: usize,
    /// Names of the new domains, instead of asking for them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "new")]
    domains: Vec<String>,
    /// Test domain, in whose style nothing is painted; may be given again
    #[arg(long, value_name = "DOMAIN")]
    hold_out: Vec<String>,
    /// Also write prompts in the styles of the test domains
    #[arg(long)]
    include_test_style: bool,
    /// Images to paint for each image there is; a new domain gets as many as the mean of the original ones
    #[arg(long, value_name = "RATIO", default_value_t = 0.5)]
    share: f64,
    /// Decides every draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let config = Config {
        hold_out: args.hold_out,
        new: args.new,
        domains: args.domains,
        share: args.share,
        include_test_style: args.include_test_style,
        seed: args.seed,
        llm: Llm::parse(&args.llm, args.model, gpu).context("--llm")?,
        ..Config::new(args.data, args.out)
    };
    let summary = prompts::run(&config, &Grammar::general())?;
    if !summary.new_domains.is_empty() {
        say!("new domains: {}", summary.new_domains.join(", "))?;
    }
    if summary.fallbacks > 0 {
        say!("{} prompts are the template's, since the model's replies would not do", summary.fallbacks)?;
    }
    say!("{} prompts: {}", summary.prompts, config.out.join("prompts.jsonl").display())
}
