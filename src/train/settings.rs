//! What to train: every setting of one run.

use super::variant::Variant;
use crate::data::dataset::Dataset;
use crate::data::{known, python};
use crate::domainbed::hparams::{Hparams, Kind, Preset};
use crate::domainbed::network::Featurizer;
use crate::flags;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// One run: its data and draws, and the settings that it may share with others. The flags of `kaleid train`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct Training {
    /// Data set: ROOT/DOMAIN/CLASS/image.
    #[arg(long, value_name = "ROOT")]
    pub data: PathBuf,
    /// Folder for the results; the same command resumes a run that was stopped.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Domain to test on, by name; may be given again.
    #[arg(long = "test-domain", value_name = "DOMAIN")]
    pub test_domains: Vec<String>,
    /// Generated images: DIR/DOMAIN/CLASS/image.
    #[arg(long, value_name = "DIR")]
    pub extra: Option<PathBuf>,
    /// Which generated images join: o none, q those in the styles of training domains, d those of new domains, qd both; d-only
    /// and qd-only train on these alone; qd-all also takes what was selected out; plain, img2img: as qd, for a folder of images from a
    /// plain template or from originals; retrieval: --extra holds real images, in any style.
    #[arg(long, value_enum, default_value = "o", hide_possible_values = true)]
    pub variant: Variant,
    /// Algorithm, by DomainBed's name.
    #[arg(long, value_name = "NAME", default_value = "ERM")]
    pub algorithm: String,
    /// Which draw of the hyper-parameters; 0 takes their defaults.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub hparams_seed: u64,
    /// Which draw of the split into training and validation images.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub trial_seed: u64,
    /// Decides every other draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How it is trained.
    #[command(flatten)]
    pub settings: Settings,
}

/// How a network is trained: what the runs of a study or a sweep share. These are flags of `kaleid train` and `kaleid sweep plan`, and
/// the table `[train]` of run.toml. Defaults are DomainBed's: 5,001 steps of a ResNet-50 at 224 pixels.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Keep a fifth of the concepts (image file names) from training, and test on them separately.
    #[arg(long)]
    pub hold_out_concepts: bool,
    /// Which version of DomainBed to follow in defaults and behaviour.
    #[arg(long, value_enum, default_value = "db2024")]
    pub preset: Preset,
    /// Algorithms to run without DomainBed's known mistakes, separated by commas; their source files describe these: MLDG, MTL, SelfReg.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub fixed: Vec<String>,
    /// Recompute the activations of residual blocks in the backward pass instead of keeping them.
    #[arg(long)]
    pub recompute: bool,
    /// Keep the network's activations and their gradients in f16, with scaled gradients: half the memory.
    #[arg(long)]
    pub f16_activations: bool,
    /// Average the weights from this step on, and predict with the average.
    #[arg(long, value_name = "STEP")]
    pub average_from: Option<usize>,
    /// Average the weights over the steps in which the validation loss, measured every --checkpoint-freq steps, no longer falls and does
    /// not yet rise (SWAD), and predict with that average; there are results only at the end.
    #[arg(long, conflicts_with = "average_from")]
    pub swad: bool,
    /// Share of each minibatch that is drawn from generated images, in environments that hold them beside originals [default: as many as
    /// there are].
    #[arg(long, value_name = "SHARE")]
    pub synthetic_share: Option<f64>,
    /// How often a generated image counts in the cross entropy, where an original counts once [default: once].
    #[arg(long, value_name = "FACTOR")]
    pub synthetic_weight: Option<f64>,
    /// Network: resnet18, resnet34, resnet50, mnist_cnn (28 pixels) or wide_resnet (32 pixels) [default: by --size, as in DomainBed].
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Channels of its first stage.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub width: usize,
    /// Kernel and stride of its first convolution.
    #[arg(long, num_args = 2, value_names = ["KERNEL", "STRIDE"], default_values_t = [7, 2])]
    pub stem: Vec<usize>,
    /// Weights to start from (safetensors or a pickle of torch, in torchvision's names below any prefix), with frozen batch norm [default:
    /// random weights].
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Height and width of images, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 224)]
    pub size: usize,
    /// Number of updates [default: 5001].
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Record results every N steps and at the end; 0: only at the end.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub checkpoint_freq: usize,
    /// Write a row of metrics.jsonl every N steps.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub log_every: usize,
    /// Augment the validation images of training domains too, as DomainBed does.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = true, hide_possible_values = true)]
    pub val_augment: bool,
    /// Record the accuracy on training images too.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = true, hide_possible_values = true)]
    pub train_accuracy: bool,
    /// Images of each training domain in a step [default: 32].
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Images of all training domains together in a step, instead of --batch.
    #[arg(long, value_name = "N", conflicts_with = "batch")]
    pub total_batch: Option<usize>,
    /// Learning rate [default: 5e-5].
    #[arg(long)]
    pub lr: Option<f64>,
    /// Hyper-parameters that replace the drawn ones, as a JSON object: {"weight_decay": 0.01}.
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}", hide_default_value = true)]
    pub hparams: Map<String, Value>,
    /// Share of each domain that is kept for validation.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub holdout_fraction: f64,
    /// Also train on generated images in the style of the test domain, as an environment of their own.
    #[arg(long)]
    pub include_test_style: bool,
    /// Leave out images that cannot be read.
    #[arg(long)]
    pub skip_bad: bool,
    /// Memory for decoded images, in GiB (in bytes in run.toml); what exceeds it goes into a file in --out until the run ends.
    #[arg(long, value_name = "GIB", value_parser = gib, default_value = "8")]
    pub image_memory: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        flags::parse(&[])
    }
}

fn json_object(text: &str) -> Result<Map<String, Value>, &'static str> {
    serde_json::from_str(text).map_err(|_| "must be a JSON object, such as '{\"lr\": 0.001}'")
}

fn gib(text: &str) -> Result<u64, std::num::ParseFloatError> {
    Ok((text.parse::<f64>()? * f64::from(1 << 30)) as u64)
}

/// Settings that no result records: those that change none, and shorthands of others.
const NOT_RECORDED: [&str; 5] = ["batch", "image_memory", "log_every", "lr", "recompute"];
/// Arguments that every result records, in this order. A setting that is not among them is recorded only where it is not the default:
/// older runs can then be resumed, and a new setting needs no line here.
const RECORDED: [&str; 31] = [
    "algorithm",
    "arch",
    "average_from",
    "checkpoint_freq",
    "data_dir",
    "dataset",
    "extra",
    "fixed",
    "hold_out_concepts",
    "holdout_fraction",
    "include_test_style",
    "hparams",
    "hparams_seed",
    "output_dir",
    "preset",
    "seed",
    "size",
    "skip_bad",
    "skip_model_save",
    "stem",
    "steps",
    "task",
    "test_envs",
    "total_batch",
    "train_accuracy",
    "trial_seed",
    "uda_holdout_fraction",
    "val_augment",
    "variant",
    "weights",
    "width",
];

impl Settings {
    /// Name of the network: the given one, or DomainBed's for images of this size.
    pub fn arch(&self) -> &str {
        self.arch.as_deref().unwrap_or(Featurizer::default_name(self.size))
    }

    /// Number of updates.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(5001)
    }

    /// Kernel and stride of the first convolution.
    ///
    /// # Errors
    /// Other than two numbers.
    pub fn stem(&self) -> Result<[usize; 2]> {
        self.stem.as_slice().try_into().context("--stem takes a kernel and a stride")
    }

    /// The hyper-parameters that are given, by whichever flag.
    pub fn hparams(&self) -> Map<String, Value> {
        let mut given = self.hparams.clone();
        given.extend(self.batch.map(|n| ("batch_size".into(), json!(n))));
        given.extend(self.lr.map(|lr| ("lr".into(), json!(lr))));
        given
    }

    /// The same settings in one form: the network is named, and `batch` and `lr` stand among the hyper-parameters.
    pub fn resolved(&self) -> Settings {
        let (arch, hparams) = (Some(self.arch().to_string()), self.hparams());
        Settings { arch, hparams, batch: None, lr: None, ..self.clone() }
    }

    /// The settings that are not defaults, as a JSON object.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn changed(&self) -> Result<Map<String, Value>> {
        let [mut own, default] = [fields(&self.resolved())?, fields(&Settings::default().resolved())?];
        own.retain(|name, value| default[name] != *value);
        Ok(own)
    }

    /// The settings of which [`Settings::changed`] gave `changed`.
    ///
    /// # Errors
    /// An unknown name, a value of another type.
    pub fn from_changed(changed: &Map<String, Value>) -> Result<Settings> {
        let mut settings: Settings = serde_json::from_value(Value::Object(changed.clone()))?;
        // A plan without a network means the default one at any size.
        settings.arch.get_or_insert_with(|| Settings::default().arch().into());
        Ok(settings)
    }

    /// Refuses values that are wrong whatever the data are.
    ///
    /// # Errors
    /// The first such value.
    pub fn check(&self) -> Result<()> {
        let [kernel, stride] = self.stem()?;
        for (flag, n, most) in [
            ("--width", self.width, 2048),
            ("--size", self.size, 4096),
            ("--steps", self.steps(), 1_000_000_000),
            ("--log-every", self.log_every, 1_000_000_000),
            ("--stem: kernel", kernel, 64),
            ("--stem: stride", stride, 64),
        ] {
            if !(1..=most).contains(&n) {
                bail!("{flag} {n}: it must be from 1 to {most}");
            }
        }
        if self.width % 4 != 0 {
            bail!("--width {}: it must be a multiple of 4", self.width);
        }
        if self.batch.is_some() && self.total_batch.is_some() {
            bail!("--batch and --total-batch: choose one");
        }
        if self.swad && (self.checkpoint_freq == 0 || self.holdout_fraction == 0.0) {
            bail!(
                "--swad measures a validation loss every --checkpoint-freq steps: neither that nor --holdout-fraction may be 0"
            );
        }
        if let Some(share) = self.synthetic_share.filter(|share| !(0.0..=1.0).contains(share)) {
            bail!("--synthetic-share {share}: it must be from 0 to 1");
        }
        if let Some(weight) = self.synthetic_weight.filter(|weight| !(0.0..=1000.0).contains(weight)) {
            bail!("--synthetic-weight {weight}: it must be from 0 to 1000");
        }
        if !(0.0..1.0).contains(&self.holdout_fraction) {
            bail!("--holdout-fraction {}: it must be from 0 to below 1", self.holdout_fraction);
        }
        Ok(())
    }
}

fn fields(settings: &Settings) -> Result<Map<String, Value>> {
    let fields = serde_json::to_value(settings).context("a path is not UTF-8")?;
    Ok(fields.as_object().cloned().unwrap_or_default())
}

/// The settings of a run are read as its own.
impl std::ops::Deref for Training {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Training {
    /// ERM with DomainBed's defaults, on original images; without test domains.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Training {
        let mut training: Training = flags::parse(&["--data", "DATA", "--out", "OUT"]);
        (training.data, training.out) = (data.into(), out.into());
        training
    }

    /// The hyper-parameters: drawn, then replaced by those that are given.
    ///
    /// # Errors
    /// Those of [`Hparams::set`].
    pub fn drawn_hparams(&self) -> Result<Hparams> {
        let dataset = known::name_of(&self.data);
        let kind = Kind { algorithm: &self.algorithm, dataset: &dataset, preset: self.settings.preset };
        let mut hparams = Hparams::new(kind, self.hparams_seed, self.trial_seed);
        for (name, value) in self.settings.hparams() {
            hparams.set(&name, value)?;
        }
        Ok(hparams)
    }

    /// What results record of the run: DomainBed's arguments, and ours.
    pub(super) fn arguments(&self, dataset: &Dataset) -> Result<Map<String, Value>> {
        let settings = &self.settings;
        let test: Vec<usize> = (0..dataset.domains.len())
            .filter(|&e| self.test_domains.contains(&dataset.domains[e].name))
            .collect();
        let path = |p: &Path| p.display().to_string();
        let given = settings.hparams();
        let own = json!({
            "algorithm": self.algorithm, "data_dir": path(&self.data), "dataset": known::name_of(&self.data),
            "extra": self.extra.as_deref().map(path), "hparams": (!given.is_empty()).then(|| python::json(&given)),
            "hparams_seed": self.hparams_seed, "output_dir": path(&self.out), "seed": self.seed, "skip_model_save": false,
            "steps": settings.steps(), "task": "domain_generalization", "test_envs": test, "trial_seed": self.trial_seed,
            "uda_holdout_fraction": 0, "variant": self.variant.name(),
        });
        let mut all = fields(&settings.resolved())?;
        all.extend(own.as_object().cloned().unwrap_or_default());
        let mut args: Map<String, Value> =
            RECORDED.iter().map(|&n| (n.to_string(), all[n].clone())).collect();
        for (name, value) in settings.changed()? {
            if !RECORDED.contains(&name.as_str()) && !NOT_RECORDED.contains(&name.as_str()) {
                args.insert(name, value);
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_named_by_the_settings_that_are_not_defaults() {
        let changed = |flags: &[&str]| {
            let settings: Settings = flags::parse(flags);
            let changed = settings.changed().unwrap();
            assert_eq!(Settings::from_changed(&changed).unwrap(), settings.resolved());
            Value::Object(changed)
        };
        assert_eq!(changed(&["--preset", "db2024", "--arch", "resnet50", "--width", "64"]), json!({}));
        // As DomainBed has it: a number of steps that is given is an argument, even if it is the default.
        assert_eq!(changed(&["--steps", "5001"]), json!({"steps": 5001}));
        assert_eq!(changed(&["--size", "28"]), json!({"size": 28, "arch": "mnist_cnn"}));
        assert_eq!(changed(&["--size", "28", "--arch", "resnet50"]), json!({"size": 28}));
        let hparams =
            ["--batch", "4", "--lr", "0.003", "--hparams", r#"{"lr": 1, "rsc_f_drop_factor": 0.5}"#];
        let one = json!({"hparams": {"lr": 0.003, "rsc_f_drop_factor": 0.5, "batch_size": 4}});
        assert_eq!(changed(&hparams), one);
        assert_eq!(changed(&["--image-memory", "0.5"]), json!({"image_memory": 1 << 29}));
        assert_eq!(changed(&["--val-augment", "false"]), json!({"val_augment": false}));
    }

    #[test]
    fn results_record_newer_settings_only_where_they_are_set() {
        let dataset = Dataset { classes: vec![], domains: vec![] };
        let mut training = Training::new("d", "o");
        let names = |training: &Training| -> Vec<String> {
            training.arguments(&dataset).unwrap().keys().cloned().collect()
        };
        assert_eq!(names(&training), RECORDED);
        training.settings = flags::parse(&["--swad", "--log-every", "1", "--lr", "1", "--recompute"]);
        assert_eq!(names(&training)[RECORDED.len()..], ["swad"]);
        assert_eq!(training.arguments(&dataset).unwrap()["hparams"], "{\"lr\": 1.0}");
    }
}
