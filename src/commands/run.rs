//! `kaleid run`

use anyhow::{Context, Result};
use kaleid::core::GpuOptions;
use kaleid::study;
use kaleid::study::config::Study;
use kaleid::study::results::{averaged, by_target, chosen, findings, table};
use std::path::{Path, PathBuf};

/// Do everything, from a data set to a report; without a configuration, run the built-in demo
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid run
  kaleid run --algorithms all
  kaleid run train.steps=1000 compare.seeds=5 --out runs/longer
  kaleid run pacs.toml --out runs/pacs
  kaleid run pacs.toml train.arch=resnet18 --show-config

pacs.toml (what it leaves out has a default; OUT/run.toml holds all):
  data = \"PACS\"
  test_domains = \"each\"                  or \"sketch\", a list, \"single-source\"
  [prompts]
  llm = \"openai:gpt-4o\"
  [images]
  model = \"stable-diffusion-v1-5\"
  [score]
  clip = \"clip-vit-base-patch32\"
  [compare]
  algorithms = [\"ERM\", \"CORAL\"]
  [train]
  weights = \"resnet50.safetensors\"")]
pub struct Args {
    /// TOML file [default: the demo's configuration]
    config: Option<String>,
    /// Settings that replace those of the configuration, such as train.steps=100
    #[arg(value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Folder for the results; the same command in the same folder resumes where it was stopped
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
    /// Decides every draw [default: the configuration's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Algorithms to compare, separated by commas; all: the paper's eight, on originals and with every choice of generated images. A
    /// finished run may be given more
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    algorithms: Vec<String>,
    /// Adapters by number or name that paint and train at the same time [default: the one of --adapter]
    #[arg(long, value_delimiter = ',', value_name = "NAME|INDEX")]
    adapters: Vec<String>,
    /// Compare every variant: q, d, painted images alone, one plain template, painted from originals, unselected. A finished run may be given
    /// them; the demo then takes about an hour
    #[arg(long)]
    full: bool,
    /// Few images and short trainings: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Pause before painting and before training, until `kaleid serve` says to go on: to edit prompts, and to reject images
    #[arg(long)]
    review: bool,
    /// Print what it would do, what of it is done, and about how long it takes, and do nothing else
    #[arg(long, conflicts_with = "show_config")]
    plan: bool,
    /// Print the configuration with all defaults, as it would be run, and do nothing else
    #[arg(long)]
    show_config: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let (mut file, mut changes) = (args.config, args.changes);
    // Without a configuration, the first change stands in its place.
    if let Some(change) = file.take_if(|f| f.contains('=') && !Path::new(f).exists()) {
        changes.insert(0, change);
    }
    let mut study = match file {
        None => Study::demo()?,
        Some(file) => {
            let text = std::fs::read_to_string(&file);
            Study::parse(&text.with_context(|| format!("{file}: cannot read the configuration"))?, &file)?
        }
    };
    study.seed = args.seed.unwrap_or(study.seed);
    if !args.algorithms.is_empty() {
        study = study.algorithms(args.algorithms)?;
    }
    if args.full {
        study = study.full();
    }
    if args.quick {
        study = study.quick();
    }
    let study = study.with(&changes)?;
    if args.show_config {
        return say!("{}", study.text()?.trim_end());
    }
    if args.plan {
        return study::plan(gpu, &study, &args.out)?.into_iter().try_for_each(|line| say!("{line}"));
    }
    let report = study::run(&gpu.each(args.adapters), &study, &args.out, args.review)?;
    let each = table(&args.out, &study)?;
    let rows = averaged(&each);
    let (tested, seeds) = (rows.first().map_or("", |row| &row.target), study.compare.seeds);
    say!("accuracy on {tested}, mean and standard error (n - 1), seeds: {seeds}")?;
    for row in &rows {
        let more = |what: &str, of| row.mean(of).map_or(String::new(), |m| format!(", {what} {m}"));
        let (balanced, unseen) =
            (more("balanced", &row.balanced), more("concepts never trained on", &row.unseen));
        say!("  {:8} {:3} {}{balanced}{unseen}", row.algorithm, row.variant.name(), row.all())?;
    }
    if let Some((header, lines)) = by_target(&each) {
        for line in [header].into_iter().chain(lines) {
            say!("  {}", line.iter().map(|cell| format!("{cell:14}")).collect::<String>().trim_end())?;
        }
    }
    for line in findings(&rows).into_iter().chain(chosen(&rows)) {
        say!("{line}")?;
    }
    say!("{}", report.display())
}
