//! `kaleid run`

use anyhow::{Context, Result};
use kaleid::core::GpuOptions;
use kaleid::study::config::Config;
use kaleid::study::demo;
use kaleid::study::results::{findings, table};
use kaleid::study::run as run_all;
use std::path::PathBuf;

/// Everything, from a data set to a report; without a configuration, the built-in demo
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid run
  kaleid run --algorithms all
  kaleid run pacs.toml --out runs/pacs

pacs.toml (all that is not there has a default, written to OUT/run.toml):
  data = \"PACS\"
  test_domain = \"sketch\"
  [prompts]
  llm = \"openai:gpt-4o\"
  [images]
  model = \"stable-diffusion-v1-5\"
  [score]
  clip = \"clip-vit-base-patch32\"
  [train]
  algorithms = [\"ERM\"]
  weights = \"resnet50.safetensors\"")]
pub struct Args {
    /// TOML file; the demo's without it
    config: Option<PathBuf>,
    /// Folder for the results; the same command in the same folder goes on where it was stopped
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
    /// Decides every draw; the configuration's by default
    #[arg(long)]
    seed: Option<u64>,
    /// Algorithms to train, separated by commas; all: the paper's eight, on originals with every choice of images. A run that is
    /// done may be given more
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    algorithms: Vec<String>,
    /// Few images and short trainings: to see that everything works
    #[arg(long)]
    quick: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let mut config = match &args.config {
        None => demo::config()?,
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("{}: cannot read the configuration", path.display()))?;
            Config::parse(&text, &path.display().to_string())?
        }
    };
    config.seed = args.seed.unwrap_or(config.seed);
    if !args.algorithms.is_empty() {
        config = config.algorithms(args.algorithms)?;
    }
    if args.quick {
        config = config.quick();
    }
    let report = run_all(gpu, &config, &args.out)?;
    let rows = table(&args.out, &config)?;
    say!("accuracy on {}, mean and standard error of {} seeds:", config.test_domain, config.train.seeds)?;
    for row in &rows {
        let unseen = row.unseen.map_or(String::new(), |m| format!(", concepts never trained on {m}"));
        say!("  {:8} {:3} {}{unseen}", row.algorithm, row.variant.name(), row.all)?;
    }
    for line in findings(&rows) {
        say!("{line}")?;
    }
    say!("{}", report.display())
}
