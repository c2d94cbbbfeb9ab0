//! `kaleid train`

use anyhow::{Context, Result, bail};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::dataset::Dataset;
use kaleid::domainbed::hparams::Preset;
use kaleid::domainbed::network::Featurizer;
use kaleid::train::{Config, Variant, run as train};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Train on some domains, test on another, as DomainBed does
///
/// Example: kaleid train --data PACS --test-domain sketch --arch resnet18 --weights resnet18.safetensors --out runs/sketch
#[derive(clap::Args)]
pub struct Args {
    /// ROOT/DOMAIN/CLASS/image
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Folder for the results; the same command goes on with a run that was cut
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Domain to test on, by name; may be given again
    #[arg(long, value_name = "DOMAIN")]
    test_domain: Vec<String>,
    /// Domains to test on, by number
    #[arg(long, value_name = "N", num_args = 1.., conflicts_with = "test_domain")]
    test_envs: Vec<usize>,
    /// Generated images, DOMAIN/CLASS/image
    #[arg(long, value_name = "DIR")]
    extra: Option<PathBuf>,
    /// Which of them join: o none, q in the styles of training domains, d new domains, qd both
    #[arg(long, value_enum, default_value = "o")]
    variant: Variant,
    /// Algorithm
    #[arg(long, default_value = "ERM")]
    algorithm: String,
    /// Draw of the hyper-parameters; 0: defaults
    #[arg(long, default_value_t = 0)]
    hparams_seed: u64,
    /// Draw of the split
    #[arg(long, default_value_t = 0)]
    trial_seed: u64,
    /// Every other draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    shared: Shared,
}

/// What every job of a sweep shares.
#[derive(clap::Args)]
pub struct Shared {
    /// Train on generated images in the style of the test domain too, as an environment of their own
    #[arg(long)]
    include_test_style: bool,
    /// Leave images out that cannot be read
    #[arg(long)]
    skip_bad: bool,
    /// Memory for decoded images in GiB; what is more goes into a file in --out until the run ends
    #[arg(long, default_value_t = 8.0, value_name = "GIB")]
    image_memory: f64,
    /// Keep a fifth of the concepts (file names) from training and test on them apart
    #[arg(long)]
    hold_out_concepts: bool,
    /// Which DomainBed's defaults and behaviour to follow
    #[arg(long, value_enum, default_value = "db2024")]
    preset: Preset,
    /// Algorithms to run without upstream's known mistakes, where their files name them: MLDG, MTL, SelfReg
    #[arg(long, value_name = "ALGORITHM", value_delimiter = ',')]
    fixed: Vec<String>,
    /// Average the weights from this step on; the average predicts
    #[arg(long, value_name = "STEP")]
    average_from: Option<usize>,
    /// Average the weights over the window in which the validation loss, measured every --checkpoint-freq steps, has stopped to fall
    /// and not risen (SWAD); the average predicts, at the end
    #[arg(long, conflicts_with = "average_from")]
    swad: bool,
    /// Device memory that training may take; where it does not suffice, work is done again to keep less. What the adapter has, by
    /// default
    #[arg(long, value_name = "MIB")]
    memory: Option<usize>,
    /// Compute residual blocks again for the backward pass instead of keeping them
    #[arg(long)]
    recompute: bool,
    /// Keep the network's activations and their gradients in f16, the gradients scaled: half the memory
    #[arg(long)]
    f16_activations: bool,
    /// Network: resnet18, resnet34, resnet50, mnist_cnn (28 pixels), wide_resnet (32 pixels) [default: by --size, as in DomainBed]
    #[arg(long)]
    arch: Option<String>,
    /// Channels of its first stage
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Kernel and stride of its first convolution
    #[arg(long, num_args = 2, value_names = ["KERNEL", "STRIDE"], default_values_t = [7, 2])]
    stem: Vec<usize>,
    /// Weights to start from (safetensors, torchvision's names), with frozen batch norm; else random ones
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Pixels of a side
    #[arg(long, default_value_t = 224)]
    size: usize,
    /// Images of each training domain in a step [default: 32]
    #[arg(long)]
    batch: Option<usize>,
    /// Images of a step over all training domains together, instead of --batch
    #[arg(long, value_name = "N", conflicts_with = "batch")]
    total_batch: Option<usize>,
    /// Learning rate [default: 5e-5]
    #[arg(long)]
    lr: Option<f64>,
    /// Updates [default: 5001]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Record results every so many steps and at the end; 0: only at the end
    #[arg(long, default_value_t = 300, value_name = "STEPS")]
    checkpoint_freq: usize,
    /// Write what is logged to metrics.jsonl every so many steps
    #[arg(long, default_value_t = 50, value_name = "STEPS")]
    log_every: usize,
    /// Validate on plain images of the training domains; DomainBed augments them
    #[arg(long)]
    plain_validation: bool,
    /// Do not record accuracy on the training images
    #[arg(long)]
    skip_train_accuracy: bool,
    /// Hyper-parameters that replace the drawn ones, as a JSON object
    #[arg(long, value_name = "JSON")]
    hparams: Option<String>,
    /// Share of each domain that is kept for validation
    #[arg(long, default_value_t = 0.2)]
    holdout_fraction: f64,
}

impl Shared {
    /// The training that these flags describe.
    pub fn config(self, data: PathBuf, out: PathBuf) -> Result<Config> {
        let mut hparams = match self.hparams.as_deref().map(serde_json::from_str) {
            None => serde_json::Map::new(),
            Some(Ok(Value::Object(map))) => map,
            Some(_) => bail!("--hparams must be a JSON object, such as '{{\"lr\": 0.001}}'"),
        };
        hparams.extend(self.batch.map(|b| ("batch_size".into(), json!(b))));
        hparams.extend(self.lr.map(|lr| ("lr".into(), json!(lr))));
        if self.weights.is_none() {
            eprintln!("no --weights: the network starts from random ones");
        }
        let defaults = Config::new(data, out);
        Ok(Config {
            include_test_style: self.include_test_style,
            skip_bad: self.skip_bad,
            image_memory: (self.image_memory * f64::from(1 << 30)) as u64,
            hold_out_concepts: self.hold_out_concepts,
            preset: self.preset,
            fixed: self.fixed,
            average_from: self.average_from,
            swad: self.swad,
            log_every: self.log_every,
            memory: self.memory,
            recompute: self.recompute,
            f16_activations: self.f16_activations,
            arch: self.arch.unwrap_or_else(|| Featurizer::default_name(self.size).into()),
            width: self.width,
            stem: self.stem.try_into().ok().context("--stem takes a kernel and a stride")?,
            weights: self.weights,
            size: self.size,
            steps: self.steps.unwrap_or(defaults.steps),
            checkpoint_freq: self.checkpoint_freq,
            val_augment: !self.plain_validation,
            train_accuracy: !self.skip_train_accuracy,
            total_batch: self.total_batch,
            hparams,
            holdout_fraction: self.holdout_fraction,
            ..defaults
        })
    }
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let mut test_domains = args.test_domain;
    if !args.test_envs.is_empty() {
        let domains = Dataset::open(&args.data)?.domains;
        for e in args.test_envs {
            let Some(domain) = domains.get(e) else {
                bail!("--test-envs {e}: there are {} domains, counted from 0", domains.len());
            };
            test_domains.push(domain.name.clone());
        }
    }
    let config = Config {
        extra: args.extra,
        variant: args.variant,
        test_domains,
        algorithm: args.algorithm,
        hparams_seed: args.hparams_seed,
        trial_seed: args.trial_seed,
        seed: args.seed,
        ..args.shared.config(args.data, args.out)?
    };
    let outcome = train(&Gpu::open(gpu)?, &config)?;
    if outcome.accuracy.is_finite() {
        say!("accuracy on {}: {:.1} %", config.test_domains.join(", "), 100.0 * outcome.accuracy)?;
    }
    if let Some(unseen) = outcome.unseen_accuracy {
        say!("accuracy on concepts never trained on: {:.1} %", 100.0 * unseen)?;
    }
    say!("{}", config.out.display())
}
