//! `kaleid prompts`

use anyhow::{Context, Result, bail};
use kaleid::core::GpuOptions;
use kaleid::pipeline::prompts::{self, Config, Grammar, Llm, Server};
use std::path::PathBuf;

/// Name new domains and write a prompt for each image to come
///
/// Example: kaleid prompts --data PACS --hold-out sketch --llm openai:gpt-4o --out runs/pacs
///
/// Example: kaleid prompts --data PACS --hold-out sketch --domains watercolor,pixel_art --out runs/pacs
#[derive(clap::Args)]
pub struct Args {
    /// ROOT/DOMAIN/CLASS/image
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Folder for domains.json and prompts.jsonl; the same command goes on with a run that was cut
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Who writes: template (no network), openai:MODEL (key in OPENAI_API_KEY), the URL of a server that speaks chat
    /// completions (http://localhost:8080/v1; key, if any, in KALEID_LLM_KEY or OPENAI_API_KEY), or local:DIR, a Llama or Qwen2
    /// that was tuned for instructions, run here
    #[arg(long, value_name = "WHO", default_value = "template")]
    llm: String,
    /// Name of the model behind a URL [default: default]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Number of new domains
    #[arg(long, default_value_t = 2)]
    new: usize,
    /// Names of the new domains, instead of asking for them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "new")]
    domains: Vec<String>,
    /// Domain for the test, whose style stays unseen; may be given again
    #[arg(long, value_name = "DOMAIN")]
    hold_out: Vec<String>,
    /// Write prompts in the styles of the domains for the test after all
    #[arg(long)]
    include_test_style: bool,
    /// Images to come for each image there is; a new domain has the mean size of the original ones
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// Every draw
    #[arg(long, default_value_t = 0)]
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
        llm: writer(&args.llm, args.model, gpu).context("--llm")?,
        ..Config::new(args.data, args.out)
    };
    let summary = prompts::run(&config, &Grammar::general())?;
    if !summary.new_domains.is_empty() {
        println!("new domains: {}", summary.new_domains.join(", "));
    }
    if summary.fallbacks > 0 {
        println!("{} prompts are the template's, since the model's replies would not do", summary.fallbacks);
    }
    println!("{} prompts: {}", summary.prompts, config.out.join("prompts.jsonl").display());
    Ok(())
}

/// What --llm says. Errors do not repeat it: a URL may hold a secret.
fn writer(llm: &str, model: Option<String>, gpu: &GpuOptions) -> Result<Llm> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let is_url = llm.starts_with("http://") || llm.starts_with("https://");
    if model.is_some() && !is_url {
        bail!("--model goes with a URL; for OpenAI it is openai:MODEL");
    }
    Ok(match llm.split_once(':') {
        None if llm == "template" => Llm::Template,
        Some(("openai", model)) if !model.is_empty() => {
            let (base, key) = (set("OPENAI_BASE_URL"), set("OPENAI_API_KEY"));
            if base.is_none() && key.is_none() {
                bail!("set OPENAI_API_KEY to your key");
            }
            let base = base.as_deref().unwrap_or("https://api.openai.com/v1");
            Llm::Server(Server::new(base, model, key.as_deref()).context("OPENAI_BASE_URL, OPENAI_API_KEY")?)
        }
        Some(("local", folder)) if !folder.is_empty() => {
            Llm::Local { folder: folder.into(), gpu: gpu.clone() }
        }
        Some(_) if is_url => {
            let key = set("KALEID_LLM_KEY").or_else(|| set("OPENAI_API_KEY"));
            Llm::Server(Server::new(llm, model.as_deref().unwrap_or("default"), key.as_deref())?)
        }
        _ => bail!("must be template, openai:MODEL, a URL such as http://localhost:8080/v1, or local:DIR"),
    })
}
