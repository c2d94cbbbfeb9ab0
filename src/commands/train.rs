//! `kaleid train`

use anyhow::{Result, bail};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::dataset::Dataset;
use kaleid::train::{self, Settings, Training};

/// Train on some domains, test on another, as DomainBed does
///
/// Example: kaleid train --data PACS --test-domain sketch --arch resnet18 --weights resnet18.safetensors --out runs/sketch
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub training: Training,
    /// Domains to test on, by number, instead of --test-domain
    #[arg(long, value_name = "N", num_args = 1.., conflicts_with = "test_domains")]
    test_envs: Vec<usize>,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let mut training = args.training;
    if !args.test_envs.is_empty() {
        let domains = Dataset::open(&training.data)?.domains;
        for e in args.test_envs {
            let Some(domain) = domains.get(e) else {
                bail!("--test-envs {e}: there are {} domains, counted from 0", domains.len());
            };
            training.test_domains.push(domain.name.clone());
        }
    }
    say_random(&training.settings);
    let gpu = Gpu::open(gpu)?;
    eprintln!("{}", gpu.caps().adapter);
    let outcome = train::run(&gpu, &training)?;
    if outcome.accuracy.is_finite() {
        let domains = training.test_domains.join(", ");
        let balanced = outcome
            .balanced_accuracy
            .map_or(String::new(), |b| format!(", mean over classes {:.1} %", 100.0 * b));
        say!("accuracy on {domains}: {:.1} %{balanced}", 100.0 * outcome.accuracy)?;
    }
    if let Some(unseen) = outcome.unseen_accuracy {
        say!("accuracy on concepts never trained on: {:.1} %", 100.0 * unseen)?;
    }
    say!("{}", training.out.display())
}

/// Says so where a network starts from random weights, which few people want.
pub fn say_random(settings: &Settings) {
    if settings.weights.is_none() {
        eprintln!("no --weights: the network starts from random ones");
    }
}
