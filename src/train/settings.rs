//! What to train: every setting of one run.

use crate::data::dataset::Dataset;
use crate::data::{known, python};
use crate::domainbed::hparams::{Hparams, Kind, Preset};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Which generated images join the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// None: the original domains.
    #[default]
    O,
    /// Those in the styles of the original training domains, which they join.
    Q,
    /// Those in new styles: each is one more training environment.
    D,
    /// Both.
    Qd,
}

impl Variant {
    /// `o`, `q`, `d` or `qd`.
    pub fn name(self) -> &'static str {
        ["o", "q", "d", "qd"][self as usize]
    }
}

/// What to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// ROOT/DOMAIN/CLASS/image.
    pub data: PathBuf,
    /// A tree of generated images of the same shape.
    pub extra: Option<PathBuf>,
    /// Which of them join.
    pub variant: Variant,
    /// Names of the domains that are only tested on.
    pub test_domains: Vec<String>,
    /// Concepts (file stems) whose FNV-1a hash is a multiple of 5 are kept from training and tested apart.
    pub hold_out_concepts: bool,
    /// DomainBed's name.
    pub algorithm: String,
    /// Which DomainBed's defaults and behaviour.
    pub preset: Preset,
    /// Algorithms that run without upstream's known mistakes.
    pub fixed: Vec<String>,
    /// The step from which on the weights are averaged; the average predicts.
    pub average_from: Option<usize>,
    /// Whether the weights are averaged over the window that SWAD finds, measuring every `checkpoint_freq` steps; results are those
    /// of the average alone, at the end.
    pub swad: bool,
    /// MiB of device memory that training may take; what the adapter has, by default.
    pub memory: Option<usize>,
    /// Compute residual blocks again for the backward pass instead of keeping them.
    pub recompute: bool,
    /// Keep the network's activations and their gradients in f16, the gradients scaled.
    pub f16_activations: bool,
    /// `resnet18`, `resnet34`, `resnet50`, `mnist_cnn` or `wide_resnet`.
    pub arch: String,
    /// Channels of the first stage.
    pub width: usize,
    /// Kernel and stride of the first convolution.
    pub stem: [usize; 2],
    /// Weights to start from, in torchvision's names; random ones without it.
    pub weights: Option<PathBuf>,
    /// Pixels of a side.
    pub size: usize,
    /// Number of updates.
    pub steps: usize,
    /// Results are recorded every so many steps, and at the end; 0: only at the end.
    pub checkpoint_freq: usize,
    /// What is logged is written to metrics.jsonl every so many steps.
    pub log_every: usize,
    /// Whether validation images of training domains are augmented, as DomainBed does it.
    pub val_augment: bool,
    /// Whether accuracy on the training images themselves is recorded.
    pub train_accuracy: bool,
    /// Samples of a step over all environments together, instead of `batch_size` of each.
    pub total_batch: Option<usize>,
    /// Hyper-parameters that replace the drawn ones.
    pub hparams: Map<String, Value>,
    /// Draw of the hyper-parameters; 0: defaults.
    pub hparams_seed: u64,
    /// Draw of the split.
    pub trial_seed: u64,
    /// Every other draw.
    pub seed: u64,
    /// Share of each domain that is kept for validation.
    pub holdout_fraction: f64,
    /// Whether generated images in the style of a test domain are trained on.
    pub include_test_style: bool,
    /// Whether images that cannot be read are left out.
    pub skip_bad: bool,
    /// Bytes of decoded images that are kept in memory; the rest goes into a file in `out`.
    pub image_memory: u64,
    /// Folder for the results.
    pub out: PathBuf,
}

impl Config {
    /// DomainBed's defaults: 5,001 steps of ERM with a ResNet-50 at 224 pixels.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            extra: None,
            variant: Variant::O,
            test_domains: vec![],
            hold_out_concepts: false,
            algorithm: "ERM".into(),
            preset: Preset::default(),
            fixed: vec![],
            average_from: None,
            swad: false,
            memory: None,
            recompute: false,
            f16_activations: false,
            arch: "resnet50".into(),
            width: 64,
            stem: [7, 2],
            weights: None,
            size: 224,
            steps: 5001,
            checkpoint_freq: 300,
            log_every: 50,
            val_augment: true,
            train_accuracy: true,
            total_batch: None,
            hparams: Map::new(),
            hparams_seed: 0,
            trial_seed: 0,
            seed: 0,
            holdout_fraction: 0.2,
            include_test_style: false,
            skip_bad: false,
            image_memory: 8 << 30,
            out: out.into(),
        }
    }

    /// The hyper-parameters: drawn, then replaced by those that are given.
    ///
    /// # Errors
    /// Those of [`Hparams::set`].
    pub fn drawn_hparams(&self) -> Result<Hparams> {
        let dataset = known::name_of(&self.data);
        let kind = Kind { algorithm: &self.algorithm, dataset: &dataset, preset: self.preset };
        let mut hparams = Hparams::new(kind, self.hparams_seed, self.trial_seed);
        for (name, value) in &self.hparams {
            hparams.set(name, value.clone())?;
        }
        Ok(hparams)
    }
}

/// Numbers that are wrong whatever the data are.
pub(super) fn check_flags(config: &Config) -> Result<()> {
    let [kernel, stride] = config.stem;
    for (flag, n, most) in [
        ("--width", config.width, 2048),
        ("--size", config.size, 4096),
        ("--steps", config.steps, 1_000_000_000),
        ("--log-every", config.log_every, 1_000_000_000),
        ("--stem: kernel", kernel, 64),
        ("--stem: stride", stride, 64),
    ] {
        if !(1..=most).contains(&n) {
            bail!("{flag} {n}: it must be from 1 to {most}");
        }
    }
    if config.width % 4 != 0 {
        bail!("--width {}: it must be a multiple of 4", config.width);
    }
    if config.swad && (config.checkpoint_freq == 0 || config.holdout_fraction == 0.0) {
        bail!(
            "--swad measures a validation loss every --checkpoint-freq steps: neither that nor --holdout-fraction may be 0"
        );
    }
    if !(0.0..1.0).contains(&config.holdout_fraction) {
        bail!("--holdout-fraction {}: it must be from 0 to below 1", config.holdout_fraction);
    }
    Ok(())
}

/// DomainBed's arguments, and ours.
pub(super) fn arguments(config: &Config, dataset: &Dataset) -> Map<String, Value> {
    let test: Vec<usize> = (0..dataset.domains.len())
        .filter(|&e| config.test_domains.contains(&dataset.domains[e].name))
        .collect();
    let path = |p: &Path| p.display().to_string();
    let args = json!({
        "algorithm": config.algorithm, "arch": config.arch, "average_from": config.average_from,
        "checkpoint_freq": config.checkpoint_freq,
        "data_dir": path(&config.data), "dataset": known::name_of(&config.data),
        "extra": config.extra.as_deref().map(path), "fixed": config.fixed, "hold_out_concepts": config.hold_out_concepts,
        "holdout_fraction": config.holdout_fraction, "include_test_style": config.include_test_style,
        "hparams": (!config.hparams.is_empty()).then(|| python::json(&config.hparams)),
        "hparams_seed": config.hparams_seed, "output_dir": path(&config.out),
        "preset": config.preset, "seed": config.seed,
        "size": config.size, "skip_bad": config.skip_bad, "skip_model_save": false, "stem": config.stem, "steps": config.steps,
        "task": "domain_generalization", "test_envs": test, "total_batch": config.total_batch,
        "train_accuracy": config.train_accuracy, "trial_seed": config.trial_seed,
        "uda_holdout_fraction": 0, "val_augment": config.val_augment, "variant": config.variant.name(),
        "weights": config.weights.as_deref().map(path), "width": config.width,
    });
    let mut args = args.as_object().cloned().unwrap_or_default();
    // Only where it is so: runs of before these settings stay what they are.
    for (name, set) in [("f16_activations", config.f16_activations), ("swad", config.swad)] {
        if set {
            args.insert(name.into(), json!(true));
        }
    }
    args
}
