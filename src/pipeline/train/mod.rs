//! `kaleid train`: DomainBed's protocol for one run. A network is trained on some domains and tested on another; the files are
//! those that DomainBed writes (`results.jsonl`, `out.txt`, `err.txt`, `done`), so that its `collect_results` reads them.
//!
//! A run can be cut at any time and goes on from its last checkpoint to the same bytes (recorded times aside): every random
//! draw is a function of (seed, step, purpose), and a checkpoint holds every tensor that lives across steps.

mod events;
mod folder;
mod images;
mod metrics;
mod swad;

use super::domainbed::hparams::{Hparams, Kind, Preset};
use super::domainbed::network::{Featurizer, Network};
use super::domainbed::samples::Rows;
use super::domainbed::trainer::{Predictor, Spec, Trainer};
use super::domainbed::{self, Algorithm, Setup, algorithm};
use super::progress::{Progress, bail_if_stopped, stopped};
use crate::core::{Gpu, OutOfMemory, Store};
use crate::data::checkpoint::Checkpoint;
use crate::data::dataset::{Dataset, Item};
use crate::data::images::Images;
use crate::data::{known, python};
use crate::models::resnet::BatchNorm;
use anyhow::{Context, Result, bail};
use folder::Folder;
use images::{EVAL_BATCH, Env, Shown, environments, leave_out_unreadable, warn_of_missing_classes};
use metrics::Metrics;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Least time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);

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

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Share of all images of the test domains that were classified rightly.
    pub accuracy: f64,
    /// The same over the concepts that were kept from training.
    pub unseen_accuracy: Option<f64>,
    /// The rows of results.jsonl.
    pub records: Vec<Map<String, Value>>,
}

/// Trains, or goes on with, or only reads, the run in `config.out`.
///
/// # Errors
/// Data, weights or flags that do not fit, each in one line; a folder that holds another run; Ctrl-C.
pub fn run(gpu: &Gpu, config: &Config) -> Result<Outcome> {
    let out = &config.out;
    check_flags(config)?;
    let dataset = Dataset::open(&config.data)?;
    let mut envs = environments(config, &dataset)?;
    let training: Vec<usize> = (0..envs.len()).filter(|&e| !envs[e].test).collect();
    let (hparams, batch) = hyper_parameters(config, &envs, training.len())?;
    // Random weights need statistics of the batch; pretrained ones keep theirs, as DomainBed's papers do.
    let frozen = config.weights.is_some() && config.preset != Preset::Dbhead;
    let mode = if frozen { BatchNorm::Frozen } else { BatchNorm::Live(1) };
    let network = Network {
        featurizer: Featurizer::named(&config.arch, config.size, config.width, config.stem, mode)?,
        classes: dataset.classes.len(),
        nonlinear: hparams.bool("nonlinear_classifier"),
        f16_activations: config.f16_activations,
    };
    if training.len() * batch < 2 && network.sees_batches() {
        bail!("a batch of one sample has no variance: batch normalisation needs more");
    }
    let init = initial_values(config, network.clone())?;
    let fixed = config.fixed.contains(&config.algorithm);
    let setup = Setup { hparams: &hparams, preset: config.preset, fixed, envs: training.len() };
    let make = || algorithm(&config.algorithm, &setup);
    let average_from = average_from(config, &*make()?)?;

    let args = arguments(config, &dataset);
    let described = describe(&args, &hparams, &envs, config);
    let folder = Folder::open(out, &described)?;
    let mut records = folder.records()?;
    let regular = config.checkpoint_freq > 0;
    let measured = |step: usize| {
        config.swad && (step + 1 == config.steps || step.is_multiple_of(config.checkpoint_freq))
    };
    let due = |step: usize| {
        if config.swad {
            return step + 1 == config.steps;
        }
        // In 2020, DomainBed did not look at the last step.
        (step + 1 == config.steps && !(regular && config.preset == Preset::Db2020))
            || (regular && step.is_multiple_of(config.checkpoint_freq))
    };
    if out.join("done").exists() {
        folder.check_records(&records, (0..config.steps).filter(|&s| due(s)))?;
        return outcome(records);
    }

    let total: usize = envs.iter().map(|e| e.items.len()).sum();
    let progress = Progress::new("images", total as u64, "images");
    let lists: Vec<&[Item]> = envs.iter().map(|e| &e.items[..]).collect();
    let images = Images::load(&lists, config.image_memory, &out.join("images.cache"), || progress.inc(1))?;
    progress.finish();
    leave_out_unreadable(config, &mut envs, &images, &folder)?;
    check_batch(&envs, batch)?;
    warn_of_missing_classes(&envs, &dataset.classes);
    let choices = ["data_augmentation", "class_balanced"].map(|name| hparams.bool(name));
    let shown = Shown::new(config, &envs, &images, choices);
    let spec = Spec {
        network: &network,
        hparams: &hparams,
        samples: &shown.samples(),
        envs: training.len(),
        batch,
        seed: config.seed,
        average_from,
        memory: config.memory.map(|mib| mib << 20),
        recompute: config.recompute,
    };

    let mut store = Store::new(gpu);
    let (start, mut swad) = folder.restore(&mut store, config.steps)?;
    let restored = store.names();
    records.retain(|r| r.get("step").and_then(Value::as_u64).is_some_and(|s| s < start as u64));
    folder.check_records(&records, (0..start).filter(|&s| due(s)))?;
    // SWAD looks at the weights as they are.
    let plain = Spec { average_from: average_from.filter(|_| !config.swad), ..spec };
    let plans = Trainer::new(&mut store, make()?, &spec, init)
        .and_then(|trainer| Ok((trainer, predictor(&store, make, &plain)?)));
    let (mut trainer, mut predictor) = match start {
        0 => plans?,
        _ => plans.with_context(|| folder.cannot_go_on())?,
    };
    if start > 0
        && let Some(name) = store.names().iter().find(|n| restored.binary_search(n).is_err())
    {
        bail!("{}: it lacks {name}", folder.cannot_go_on());
    }
    let memory = trainer.memory();
    let saving = trainer.saving().to_string();
    if !saving.is_empty() {
        eprintln!("a step takes {} MiB, with {saving}", memory >> 20);
    }

    let steps_per_epoch = envs.iter().map(|e| e.parts[0].len()).min().unwrap_or(1) as f64 / batch as f64;
    let first = records.last().and_then(|r| r["step"].as_u64()).map_or(0, |s| s as usize + 1);
    let progress = Progress::new("train", config.steps as u64, "steps");
    progress.skip(start as u64);
    let ends = |step: usize| due(step) || measured(step) || (step + 1).is_multiple_of(config.log_every);
    let mut metrics = Metrics::open(out, start, ends, &records)?;
    let (mut since, mut saved, mut clock) = (first, Instant::now(), Instant::now());
    let mut row_clock = (start, Instant::now());
    // Seconds of the host's work on minibatches, which the device does not wait for unless its own takes less.
    let preparing = Cell::new(0.0);
    let minibatch = |step: usize| {
        let start = Instant::now();
        let made = (step < config.steps).then(|| shown.minibatch(step, &training, batch));
        preparing.set(preparing.get() + start.elapsed().as_secs_f64());
        made
    };
    if config.swad {
        trainer.average_anew((0..start).rev().find(|&s| measured(s)).map_or(0, |s| s as u32 + 1));
    }
    let mut next = minibatch(start);
    for step in start..config.steps {
        let Some((x, y)) = next.take() else { break };
        trainer.step(step as u32, Rows::Pictures(&x), &y, metrics.since())?;
        // The device is busy with this step while the next one's images are made.
        next = minibatch(step + 1);
        progress.inc(1);
        if ends(step) {
            // Times are those of the host, which is a step or two ahead of the device.
            let seconds = row_clock.1.elapsed().as_secs_f64() / (step + 1 - row_clock.0) as f64;
            let mut row =
                Map::from_iter([("step_time".into(), json!(seconds)), ("time".into(), json!(now()))]);
            if measured(step) {
                let loss = shown.validation_loss(&mut predictor, step);
                let loss = loss.with_context(|| format!("after step {step}"))?;
                swad.measured(&store, step, loss)?;
                trainer.average_anew(step as u32 + 1);
                row.insert("validation_loss".into(), json!(loss));
            }
            metrics.end_row(&trainer, step, row)?;
            row_clock = (step + 1, Instant::now());
        }
        metrics.poll()?;
        let recording = due(step);
        if recording {
            metrics.flush()?;
            let count = step + 1 - since;
            let mut record = Map::new();
            for (name, value) in metrics.means(&trainer, since) {
                record.insert(name, json!(value));
            }
            record.insert("step_time".into(), json!(clock.elapsed().as_secs_f64() / count as f64));
            record.insert("data_time".into(), json!(preparing.take() / count as f64));
            record.insert("step".into(), json!(step));
            record.insert("epoch".into(), json!(step as f64 / steps_per_epoch));
            record.insert("mem_gb".into(), json!(memory as f64 / f64::from(1 << 30)));
            record.insert("hparams".into(), Value::Object(hparams.0.clone()));
            record.insert("args".into(), Value::Object(args.clone()));
            if config.swad {
                let window = std::mem::take(&mut swad).finish(&mut store)?;
                record.insert("swad_start".into(), json!(window[0]));
                record.insert("swad_end".into(), json!(window[1]));
                predictor = self::predictor(&store, make, &spec)?;
            }
            let evaluated = shown.evaluate(&mut predictor, step, &mut record);
            evaluated.with_context(|| format!("after step {step}"))?;
            progress.say(&summary(&record));
            records.push(record);
            folder.write_records(&records, &described)?;
            since = step + 1;
        }
        if recording || stopped() || saved.elapsed() > CHECKPOINT_EVERY {
            let before = Instant::now();
            metrics.flush()?;
            folder.checkpoint(&store, step + 1, &swad)?;
            // A large model on a slow disk must not spend its time on checkpoints.
            saved = Instant::now() + 20 * before.elapsed();
            if step + 1 < config.steps {
                bail_if_stopped()?;
            }
        }
        if recording {
            metrics.draw(&trainer, &records)?;
            clock = Instant::now();
            row_clock.1 = clock;
        }
    }
    if let Some(line) = metrics.spark(&trainer) {
        progress.say(&line);
    }
    progress.finish();
    folder.write_model(&store, &network, &dataset)?;
    outcome(records)
}

/// The step from which on the weights are averaged.
///
/// # Errors
/// An algorithm that averages them itself, beside SWAD.
pub fn average_from(config: &Config, algorithm: &dyn Algorithm) -> Result<Option<u32>> {
    let own = algorithm.average_from();
    if config.swad && (own.is_some() || config.average_from.is_some()) {
        let other = if own.is_some() { config.algorithm.as_str() } else { "--average-from" };
        bail!("--swad and {other} both average the weights: choose one");
    }
    let given = if config.swad { Some(0) } else { config.average_from.map(|step| step as u32) };
    Ok(given.or(own))
}

/// The hyper-parameters, and the samples that a step takes from each of `training` environments.
fn hyper_parameters(config: &Config, envs: &[Env], training: usize) -> Result<(Hparams, usize)> {
    for name in [&config.algorithm].into_iter().chain(&config.fixed) {
        domainbed::check_name(name)?;
    }
    let mut hparams = config.drawn_hparams()?;
    if let Some(total) = config.total_batch {
        if total < training {
            bail!("a total batch of {total} is less than one sample of each of {training} training domains");
        }
        hparams.set("batch_size", json!(total / training))?;
    }
    let batch = hparams.usize("batch_size");
    check_batch(envs, batch)?;
    Ok((hparams, batch))
}

/// The largest predictor that the device has room for.
fn predictor(store: &Store, make: impl Fn() -> Result<Box<dyn Algorithm>>, spec: &Spec) -> Result<Predictor> {
    let mut rows = EVAL_BATCH;
    loop {
        match Predictor::new(store, &*make()?, spec, rows) {
            Err(e) if rows > 1 && e.downcast_ref::<OutOfMemory>().is_some() => rows /= 2,
            done => return done,
        }
    }
}

/// Fails where upstream would wait for a batch for ever.
fn check_batch(envs: &[Env], batch: usize) -> Result<()> {
    for env in envs.iter().filter(|e| !e.test) {
        let n = env.parts[0].len();
        if batch > n {
            bail!(
                "domain {}: batch {batch} is larger than its {n} training images: choose a smaller batch",
                env.name
            );
        }
    }
    Ok(())
}

/// Numbers that are wrong whatever the data are.
fn check_flags(config: &Config) -> Result<()> {
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

/// Values that parameters start with.
fn initial_values(
    config: &Config,
    network: Network,
) -> Result<impl Fn(&str, &[usize], Option<usize>) -> Result<Vec<f32>> + use<>> {
    let checkpoint = config.weights.as_ref().map(Checkpoint::open).transpose()?;
    let (seed, featurizer) = (config.seed, network.featurizer_tensors(config.size));
    Ok(move |name: &str, shape: &[usize], fan_in| match &checkpoint {
        // A pretrained classifier is for other classes, and what an algorithm adds was never trained.
        Some(checkpoint) if featurizer.contains_key(name) => checkpoint.f32(name, shape),
        _ => Ok(network.initial(name, shape, fan_in, seed)),
    })
}

fn outcome(records: Vec<Map<String, Value>>) -> Result<Outcome> {
    let last = records.last().context("no results")?;
    let number = |key: &str| last.get(key).and_then(Value::as_f64);
    Ok(Outcome {
        accuracy: number("test_acc").unwrap_or(f64::NAN),
        unseen_accuracy: number("test_unseen_acc"),
        records,
    })
}

/// DomainBed's arguments, and ours.
fn arguments(config: &Config, dataset: &Dataset) -> Map<String, Value> {
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

/// train.json: everything the run depends on, down to which image is in which part.
fn describe(args: &Map<String, Value>, hparams: &Hparams, envs: &[Env], config: &Config) -> Value {
    let file = |item: &Item| {
        let roots = [Some(&config.data), config.extra.as_ref()];
        let inside = roots.into_iter().flatten().find_map(|r| item.path.strip_prefix(r).ok());
        inside.unwrap_or(&item.path).display().to_string()
    };
    let env = |e: &Env| {
        let [large, small] =
            [0, 1].map(|p| e.parts[p].iter().map(|&i| file(&e.items[i])).collect::<Vec<_>>());
        json!({"name": e.name, "test": e.test, "in": large, "out": small})
    };
    let envs: Vec<Value> = envs.iter().map(env).collect();
    json!({"args": args, "hparams": hparams.0, "environments": envs})
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = std::time::UNIX_EPOCH.elapsed();
    since.map_or(0.0, |t| (t.as_secs_f64() * 1e3).round() / 1e3)
}

/// One line for people: the loss, and the accuracies that count.
fn summary(record: &Map<String, Value>) -> String {
    let mut line = format!("step {}", record["step"]);
    for (key, value) in record {
        let Some(value) = value.as_f64() else { continue };
        match key.as_str() {
            "test_acc" | "test_unseen_acc" => line += &format!(", {key} {:.1} %", 100.0 * value),
            key if key.ends_with("_out_acc") => line += &format!(", {key} {:.1} %", 100.0 * value),
            "step" | "epoch" | "mem_gb" | "step_time" | "data_time" => {}
            key if key.ends_with("_acc") => {}
            key => line += &format!(", {key} {value:.4}"),
        }
    }
    line
}
