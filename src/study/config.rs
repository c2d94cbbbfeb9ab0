//! What a study is: the TOML file of `kaleid run`, with the paper's and DomainBed's defaults.

use crate::domainbed;
use crate::domainbed::hparams::Preset;
use crate::sweep;
use crate::train::{self, Variant};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What to run: the TOML file. What it leaves out is as the paper and DomainBed have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// ROOT/DOMAIN/CLASS/image; `builtin` is the demo's.
    pub data: PathBuf,
    /// The domain that is only tested on.
    pub test_domain: String,
    /// Decides every draw.
    #[serde(default)]
    pub seed: u64,
    /// Keep a fifth of the concepts (file names) from training, and test on them apart.
    #[serde(default)]
    pub hold_out_concepts: bool,
    /// New domains, and a prompt for every image.
    #[serde(default)]
    pub prompts: Prompts,
    /// How images are painted.
    pub images: Images,
    /// How diversity is measured.
    pub score: Score,
    /// What is trained.
    #[serde(default)]
    pub train: Train,
}

/// `[prompts]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prompts {
    /// As `kaleid prompts --llm` takes it.
    pub llm: String,
    /// Name of the model, where `llm` is a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Number of new domains.
    pub new: usize,
    /// Their names, when they are given by hand.
    pub domains: Vec<String>,
    /// Generated images of a domain, as a share of its originals.
    pub share: f64,
    /// Whether images in the test domain's style may be painted and trained on.
    pub include_test_style: bool,
}

impl Default for Prompts {
    fn default() -> Self {
        Prompts {
            llm: "template".into(),
            model: None,
            new: 2,
            domains: vec![],
            share: 0.5,
            include_test_style: false,
        }
    }
}

/// `[images]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Stable Diffusion folder in diffusers' layout; `builtin` is the demo's.
    pub model: PathBuf,
    /// Steps of the scheduler.
    #[serde(default = "fifty")]
    pub steps: usize,
    /// Classifier-free guidance.
    #[serde(default = "two")]
    pub guidance: f32,
    /// Its name; the model's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Height and width; what the model was trained on by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// Images painted at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// What the images should not show.
    #[serde(default)]
    pub negative: String,
}

fn fifty() -> usize {
    50
}

fn two() -> f32 {
    2.0
}

/// `[score]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Folder of a `CLIPModel`; `builtin` is the demo's.
    pub clip: PathBuf,
    /// See [`score::Config`].
    #[serde(default)]
    pub trace: bool,
    /// See [`score::Config`].
    #[serde(default)]
    pub unnormalised: bool,
}

/// `[train]`: the flags of `kaleid train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Train {
    /// DomainBed's names.
    pub algorithms: Vec<String>,
    /// Which images are trained on: o, q, d, qd.
    pub variants: Vec<Variant>,
    /// Trainings of each algorithm and variant.
    pub seeds: u64,
    pub preset: Preset,
    pub fixed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_from: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub swad: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub f16_activations: bool,
    pub arch: String,
    pub width: usize,
    pub stem: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    pub size: usize,
    pub steps: usize,
    pub checkpoint_freq: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_batch: Option<usize>,
    pub plain_validation: bool,
    pub skip_train_accuracy: bool,
    pub holdout_fraction: f64,
    pub hparams: Map<String, Value>,
}

impl Default for Train {
    fn default() -> Self {
        let train = train::Config::new("", "");
        Train {
            algorithms: vec![train.algorithm],
            variants: vec![Variant::O, Variant::Qd],
            seeds: 3,
            preset: train.preset,
            fixed: train.fixed,
            average_from: train.average_from,
            swad: train.swad,
            f16_activations: train.f16_activations,
            arch: train.arch,
            width: train.width,
            stem: train.stem,
            weights: None,
            size: train.size,
            steps: train.steps,
            checkpoint_freq: train.checkpoint_freq,
            total_batch: None,
            plain_validation: false,
            skip_train_accuracy: false,
            holdout_fraction: train.holdout_fraction,
            hparams: Map::new(),
        }
    }
}

impl Config {
    /// Reads a TOML text; `name` is what errors call it.
    ///
    /// # Errors
    /// A text that is no TOML, an unknown key, a value that cannot be; with its line.
    pub fn parse(text: &str, name: &str) -> Result<Config> {
        let config: Config = toml::from_str(text).map_err(|e| {
            let line = 1 + e.span().map_or(0, |span| text[..span.start].matches('\n').count());
            anyhow::anyhow!("{name}, line {line}: {}", e.message())
        })?;
        let train = &config.train;
        if train.algorithms.is_empty() || train.variants.is_empty() || train.seeds == 0 {
            bail!("{name}: [train] needs at least one of algorithms, of variants and of seeds");
        }
        for algorithm in train.algorithms.iter().chain(&train.fixed) {
            domainbed::check_name(algorithm).with_context(|| name.to_string())?;
        }
        Ok(config)
    }

    /// Whether this is `held` with more algorithms, variants or seeds to train: the same folder, then, goes on.
    pub(super) fn extends(&self, held: &Config) -> bool {
        let (now, then) = (&self.train, &held.train);
        let (algorithms, variants, seeds) = (now.algorithms.clone(), now.variants.clone(), now.seeds);
        let others = Config { train: Train { algorithms, variants, seeds, ..then.clone() }, ..held.clone() };
        others == *self
            && then.algorithms.iter().all(|a| now.algorithms.contains(a))
            && then.variants.iter().all(|v| now.variants.contains(v))
            && then.seeds <= now.seeds
    }

    /// Trains these algorithms; `all` are the paper's eight, each on o, q, d and qd, for its Table 1.
    ///
    /// # Errors
    /// A name that is no algorithm.
    pub fn algorithms(mut self, names: Vec<String>) -> Result<Config> {
        if names == ["all"] {
            self.train.algorithms = sweep::ALGORITHMS.map(String::from).to_vec();
            self.train.variants = vec![Variant::O, Variant::Q, Variant::D, Variant::Qd];
            return Ok(self);
        }
        for name in &names {
            domainbed::check_name(name)?;
        }
        self.train.algorithms = names;
        Ok(self)
    }

    /// The same with few images and short trainings: to see that everything works.
    pub fn quick(mut self) -> Config {
        self.prompts.share *= 0.1;
        self.images.steps = self.images.steps.min(6);
        self.train.seeds = 1;
        self.train.steps = self.train.steps.min(12);
        self
    }
}
