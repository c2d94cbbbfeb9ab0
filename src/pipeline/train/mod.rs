//! `kaleid train`: DomainBed's protocol for one run. A network is trained on some domains and tested on another; the files are
//! those that DomainBed writes (`results.jsonl`, `out.txt`, `err.txt`, `done`), so that its `collect_results` reads them.
//!
//! A run can be cut at any time and goes on from its last checkpoint to the same bytes (recorded times aside): every random
//! draw is a function of (seed, step, purpose), and a checkpoint holds every tensor that lives across steps.

mod folder;

use super::domainbed::hparams::{Hparams, Kind, Preset};
use super::domainbed::network::{Featurizer, Network, initial};
use super::domainbed::trainer::{Predictor, Spec, Trainer};
use super::domainbed::{self, Setup, algorithm};
use super::progress::{Progress, bail_if_stopped, stopped};
use crate::core::{Gpu, Store};
use crate::data::augment::augment;
use crate::data::checkpoint::Checkpoint;
use crate::data::dataset::{Dataset, Item, fnv1a, load, split};
use crate::data::image::{Filter, Rgb};
use crate::data::known;
use crate::data::rng::Key;
use crate::models::resnet::{BatchNorm, ResNetConfig};
use anyhow::{Context, Result, bail};
use folder::{Folder, python_json};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Statistics of ImageNet's channels.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Channels of an image on the device: three, and one of zeros (see [`resnet::features`]).
const CHANNELS: usize = 4;
/// Images of one prediction; DomainBed's number.
const EVAL_BATCH: usize = 64;
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
    /// MiB of device memory that training may take; what the adapter has, by default.
    pub memory: Option<usize>,
    /// Compute residual blocks again for the backward pass instead of keeping them.
    pub recompute: bool,
    /// `resnet18`, `resnet34` or `resnet50`.
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
            memory: None,
            recompute: false,
            arch: "resnet50".into(),
            width: 64,
            stem: [7, 2],
            weights: None,
            size: 224,
            steps: 5001,
            checkpoint_freq: 300,
            val_augment: true,
            train_accuracy: true,
            total_batch: None,
            hparams: Map::new(),
            hparams_seed: 0,
            trial_seed: 0,
            seed: 0,
            holdout_fraction: 0.2,
            out: out.into(),
        }
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

/// One environment: the images of a domain, and which of them are trained on.
struct Env {
    name: String,
    items: Vec<Item>,
    /// Places in `items`: the large part and the small (validation) part.
    parts: [Vec<usize>; 2],
    test: bool,
}

/// Trains, or goes on with, or only reads, the run in `config.out`.
///
/// # Errors
/// Data, weights or flags that do not fit, each in one line; a folder that holds another run; Ctrl-C.
pub fn run(gpu: &Gpu, config: &Config) -> Result<Outcome> {
    let out = &config.out;
    check_flags(config)?;
    let dataset = Dataset::open(&config.data)?;
    let envs = environments(config, &dataset)?;
    let training: Vec<usize> = (0..envs.len()).filter(|&e| !envs[e].test).collect();
    let (hparams, batch) = hyper_parameters(config, &envs, training.len())?;
    let resnet = ResNetConfig {
        stem_kernel: config.stem[0],
        stem_stride: config.stem[1],
        ..ResNetConfig::named(&config.arch, config.width)?
    };
    // Random weights need statistics of the batch; pretrained ones keep theirs, as DomainBed's papers do.
    let frozen = config.weights.is_some() && config.preset != Preset::Dbhead;
    let mode = if frozen { BatchNorm::Frozen } else { BatchNorm::Live };
    let network = Network { featurizer: Featurizer::ResNet(resnet, mode), classes: dataset.classes.len() };
    if training.len() * batch < 2 && mode == BatchNorm::Live {
        bail!("a batch of one sample has no variance: batch normalisation needs more");
    }
    let init = initial_values(config)?;
    let fixed = config.fixed.contains(&config.algorithm);
    let setup = Setup { hparams: &hparams, preset: config.preset, fixed, envs: training.len() };
    let make = || algorithm(&config.algorithm, &setup);
    let sample = [config.size, config.size, CHANNELS];
    let spec = Spec {
        network: &network,
        hparams: &hparams,
        sample: &sample,
        envs: training.len(),
        batch,
        seed: config.seed,
        average_from: config.average_from.map(|step| step as u32).or(make()?.average_from()),
        memory: config.memory.map(|mib| mib << 20),
        recompute: config.recompute,
    };

    let args = arguments(config, &dataset);
    let described = describe(&args, &hparams, &envs, config);
    let folder = Folder::open(out, &described)?;
    let mut records = folder.records()?;
    let due = |step: usize| {
        let regular = config.checkpoint_freq > 0;
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
    let images = envs.iter().map(|e| load(&e.items, || progress.inc(1))).collect::<Result<Vec<_>>>()?;
    progress.finish();

    let mut store = Store::new(gpu);
    let start = folder.restore(&mut store, config.steps)?;
    let restored = store.names();
    records.retain(|r| r.get("step").and_then(Value::as_u64).is_some_and(|s| s < start as u64));
    folder.check_records(&records, (0..start).filter(|&s| due(s)))?;
    let plans = Trainer::new(&mut store, make()?, &spec, init)
        .and_then(|trainer| Ok((trainer, Predictor::new(&store, &*make()?, &spec, EVAL_BATCH)?)));
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
    let shown = Shown { config, envs: &envs, images: &images, augmented: hparams.bool("data_augmentation") };

    let steps_per_epoch = envs.iter().map(|e| e.parts[0].len()).min().unwrap_or(1) as f64 / batch as f64;
    let first = records.last().and_then(|r| r["step"].as_u64()).map_or(0, |s| s as usize + 1);
    let progress = Progress::new("train", config.steps as u64, "steps");
    progress.skip(start as u64);
    let (mut since, mut saved, mut clock) = (first, Instant::now(), Instant::now());
    let mut next = (start < config.steps).then(|| shown.minibatch(start, &training, batch));
    for step in start..config.steps {
        let Some((x, y)) = next.take() else { break };
        trainer.step(step as u32, &x, &y, since as u32)?;
        // The device is busy with this step while the next one's images are made.
        next = (step + 1 < config.steps).then(|| shown.minibatch(step + 1, &training, batch));
        progress.inc(1);
        let recording = due(step);
        if recording {
            let count = step + 1 - since;
            let mut record = Map::new();
            let logged = trainer.logged(since as u32, step as u32 + 1);
            let logged = logged.with_context(|| format!("steps {since} to {step}"))?;
            for (name, value) in logged {
                record.insert(name.into(), short(value));
            }
            record.insert("step_time".into(), json!(clock.elapsed().as_secs_f64() / count as f64));
            record.insert("step".into(), json!(step));
            record.insert("epoch".into(), json!(step as f64 / steps_per_epoch));
            record.insert("mem_gb".into(), json!(memory as f64 / f64::from(1 << 30)));
            record.insert("hparams".into(), Value::Object(hparams.0.clone()));
            record.insert("args".into(), Value::Object(args.clone()));
            let evaluated = shown.evaluate(&mut predictor, step, &mut record);
            evaluated.with_context(|| format!("after step {step}"))?;
            progress.say(&summary(&record));
            records.push(record);
            folder.write_records(&records, &described)?;
            since = step + 1;
        }
        if recording || stopped() || saved.elapsed() > CHECKPOINT_EVERY {
            let before = Instant::now();
            folder.checkpoint(&store, step + 1)?;
            // A large model on a slow disk must not spend its time on checkpoints.
            saved = Instant::now() + 20 * before.elapsed();
            if step + 1 < config.steps {
                bail_if_stopped()?;
            }
        }
        if recording {
            clock = Instant::now();
        }
    }
    progress.finish();
    folder.write_model(&store, &network, &dataset)?;
    outcome(records)
}

/// The environments: DomainBed's, then those of new generated domains.
fn environments(config: &Config, dataset: &Dataset) -> Result<Vec<Env>> {
    for name in &config.test_domains {
        dataset.env(name)?;
    }
    let held = |item: &Item| config.hold_out_concepts && is_unseen(item);
    let mut envs: Vec<Env> = vec![];
    for domain in &dataset.domains {
        let test = config.test_domains.contains(&domain.name);
        let items: Vec<Item> = domain.items.iter().filter(|i| test || !held(i)).cloned().collect();
        let (small, large) = split(items.len(), config.holdout_fraction, config.trial_seed, envs.len());
        envs.push(Env { name: domain.name.clone(), items, parts: [large, small], test });
    }
    if envs.iter().all(|e| e.test) {
        bail!("all {} domains are test domains: nothing is left to train on", envs.len());
    }
    if config.variant == Variant::O {
        return Ok(envs);
    }
    let Some(extra) = &config.extra else {
        bail!("variant {} needs --extra, the folder of generated images", config.variant.name());
    };
    let (mut joined, mut new) = (0, 0);
    for domain in Dataset::added(extra, &dataset.classes)? {
        match envs.iter_mut().find(|e| e.name == domain.name) {
            // Nothing in the style of a domain that is tested on is ever trained on.
            Some(env) if env.test => {}
            // Validation stays on originals, the same ones for every variant.
            Some(env) if config.variant != Variant::D => {
                env.parts[0].extend(env.items.len()..env.items.len() + domain.items.len());
                env.items.extend(domain.items);
                joined += 1;
            }
            None if config.variant != Variant::Q => {
                let n = domain.items.len();
                let (small, large) = split(n, config.holdout_fraction, config.trial_seed, envs.len());
                envs.push(Env { name: domain.name, items: domain.items, parts: [large, small], test: false });
                new += 1;
            }
            _ => {}
        }
    }
    let lacks = |what: &str| {
        format!("{}: no images {what}, which variant {} adds", extra.display(), config.variant.name())
    };
    if joined == 0 && config.variant != Variant::D {
        bail!(lacks("in the style of a training domain"));
    }
    if new == 0 && config.variant != Variant::Q {
        bail!(lacks("of a new domain"));
    }
    Ok(envs)
}

/// A fifth of all concepts.
fn is_unseen(item: &Item) -> bool {
    fnv1a(item.stem()).is_multiple_of(5)
}

/// The hyper-parameters, and the samples that a step takes from each of `training` environments.
fn hyper_parameters(config: &Config, envs: &[Env], training: usize) -> Result<(Hparams, usize)> {
    domainbed::check_name(&config.algorithm)?;
    for name in &config.fixed {
        domainbed::check_name(name)?;
    }
    let dataset = config.data.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let kind = Kind { algorithm: &config.algorithm, dataset: &dataset, preset: config.preset };
    let mut hparams = Hparams::new(kind, config.hparams_seed, config.trial_seed)?;
    for (name, value) in &config.hparams {
        hparams.set(name, value.clone())?;
    }
    if let Some(total) = config.total_batch {
        if total < training {
            bail!("a total batch of {total} is less than one sample of each of {training} training domains");
        }
        hparams.set("batch_size", json!(total / training))?;
    }
    let batch = hparams.usize("batch_size");
    for env in envs.iter().filter(|e| !e.test) {
        let n = env.parts[0].len();
        if batch > n {
            bail!(
                "domain {}: batch {batch} is larger than its {n} training images: choose a smaller batch",
                env.name
            );
        }
    }
    Ok((hparams, batch))
}

/// Numbers that are wrong whatever the data are.
fn check_flags(config: &Config) -> Result<()> {
    let [kernel, stride] = config.stem;
    for (flag, n, most) in [
        ("--width", config.width, 2048),
        ("--size", config.size, 8192),
        ("--steps", config.steps, 1_000_000_000),
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
    if !(0.0..1.0).contains(&config.holdout_fraction) {
        bail!("--holdout-fraction {}: it must be from 0 to below 1", config.holdout_fraction);
    }
    Ok(())
}

/// Values that parameters start with, by name and shape.
fn initial_values(config: &Config) -> Result<impl Fn(&str, &[usize]) -> Result<Vec<f32>> + use<>> {
    let checkpoint = config.weights.as_ref().map(Checkpoint::open).transpose()?;
    let seed = config.seed;
    Ok(move |name: &str, shape: &[usize]| match &checkpoint {
        // A pretrained classifier is for other classes.
        Some(checkpoint) if !name.starts_with("fc.") => checkpoint.f32(name, shape),
        _ => Ok(initial(name, shape, seed)),
    })
}

/// Images as the network is shown them.
struct Shown<'a> {
    config: &'a Config,
    envs: &'a [Env],
    images: &'a [Vec<Rgb>],
    augmented: bool,
}

impl Shown<'_> {
    /// `rows` images, normalised, (rows, size, size, CHANNELS); `picture` makes one.
    fn tensor(&self, rows: usize, picture: impl Fn(usize) -> Rgb + Sync) -> Vec<f32> {
        let normal = |v: usize, c: usize| (v as f32 / 255.0 - MEAN[c]) / STD[c];
        let table: Vec<[f32; 3]> = (0..256).map(|v| [0, 1, 2].map(|c| normal(v, c))).collect();
        let length = self.config.size * self.config.size * CHANNELS;
        let mut x = vec![0.0; rows * length];
        x.par_chunks_mut(length).enumerate().for_each(|(row, to)| {
            let image = picture(row);
            for (to, from) in to.chunks_exact_mut(CHANNELS).zip(image.data.chunks_exact(3)) {
                for c in 0..3 {
                    to[c] = table[usize::from(from[c])][c];
                }
            }
        });
        x
    }

    fn plain(&self, image: &Rgb) -> Rgb {
        image.resize(self.config.size, self.config.size, Filter::Bilinear)
    }

    /// `batch` images, drawn with replacement, of each training environment.
    fn minibatch(&self, step: usize, training: &[usize], batch: usize) -> (Vec<f32>, Vec<u32>) {
        let (seed, step) = (self.config.seed, step as u32);
        let keys: Vec<[Key; 2]> = training
            .iter()
            .map(|e| [format!("batch {e}"), format!("augment {e}")].map(|p| Key::new(seed, step, &p)))
            .collect();
        let drawn: Vec<(usize, usize)> = (0..training.len() * batch)
            .map(|row| {
                let (t, env) = (row / batch, training[row / batch]);
                let part = &self.envs[env].parts[0];
                (env, part[keys[t][0].below((row % batch) as u32, part.len() as u32) as usize])
            })
            .collect();
        let x = self.tensor(drawn.len(), |row| {
            let (env, i) = drawn[row];
            let image = &self.images[env][i];
            match self.augmented {
                true => augment(image, self.config.size, keys[row / batch][1], row % batch),
                false => self.plain(image),
            }
        });
        (x, drawn.iter().map(|&(env, i)| self.envs[env].items[i].class as u32).collect())
    }

    /// Adds the accuracies of every environment's parts, and of the test domains as a whole.
    fn evaluate(
        &self,
        predictor: &mut Predictor,
        step: usize,
        record: &mut Map<String, Value>,
    ) -> Result<()> {
        let (mut right, mut unseen) = ([0, 0], [0, 0]);
        for (part, name) in ["in", "out"].into_iter().enumerate() {
            for (e, env) in self.envs.iter().enumerate() {
                let places = &env.parts[part];
                if places.is_empty() || (part == 0 && !env.test && !self.config.train_accuracy) {
                    continue;
                }
                let correct = self.correct(predictor, e, part, step)?;
                let share = correct.iter().filter(|&&c| c).count() as f64 / places.len() as f64;
                record.insert(format!("env{e}_{name}_acc"), json!(share));
                if env.test {
                    for (&i, &c) in places.iter().zip(&correct) {
                        let add = |to: &mut [usize; 2]| *to = [to[0] + usize::from(c), to[1] + 1];
                        add(&mut right);
                        if is_unseen(&env.items[i]) {
                            add(&mut unseen);
                        }
                    }
                }
            }
        }
        let share = |[right, all]: [usize; 2]| json!(right as f64 / all as f64);
        if right[1] > 0 {
            record.insert("test_acc".into(), share(right));
        }
        if self.config.hold_out_concepts && unseen[1] > 0 {
            record.insert("test_unseen_acc".into(), share(unseen));
        }
        Ok(())
    }

    /// Which images of one part of one environment are classified rightly.
    fn correct(&self, predictor: &mut Predictor, e: usize, part: usize, step: usize) -> Result<Vec<bool>> {
        let env = &self.envs[e];
        let key = Key::new(self.config.seed, step as u32, &format!("evaluate {e} {part}"));
        let augmented = self.augmented && !env.test && self.config.val_augment;
        let batches: Vec<&[usize]> = env.parts[part].chunks(EVAL_BATCH).collect();
        let make = |b: usize| {
            let from = b * EVAL_BATCH;
            self.tensor(EVAL_BATCH, |row| {
                // The last batch is filled up with its last image.
                let row = row.min(batches[b].len() - 1);
                let image = &self.images[e][batches[b][row]];
                match augmented {
                    true => augment(image, self.config.size, key, from + row),
                    false => self.plain(image),
                }
            })
        };
        let mut x = Some(make(0));
        let mut correct = vec![];
        for b in 0..batches.len() {
            let now = x.take().unwrap_or_default();
            predictor
                .run(&now, Key::new(self.config.seed, step as u32, &format!("predict {e} {part} {b}")))?;
            x = (b + 1 < batches.len()).then(|| make(b + 1));
            let labels = predictor.labels()?;
            correct.extend(batches[b].iter().zip(labels).map(|(&i, l)| env.items[i].class == l));
        }
        Ok(correct)
    }
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
        "holdout_fraction": config.holdout_fraction,
        "hparams": (!config.hparams.is_empty()).then(|| python_json(&config.hparams)),
        "hparams_seed": config.hparams_seed, "output_dir": path(&config.out),
        "preset": config.preset, "seed": config.seed,
        "size": config.size, "skip_model_save": false, "stem": config.stem, "steps": config.steps,
        "task": "domain_generalization", "test_envs": test, "total_batch": config.total_batch,
        "train_accuracy": config.train_accuracy, "trial_seed": config.trial_seed,
        "uda_holdout_fraction": 0, "val_augment": config.val_augment, "variant": config.variant.name(),
        "weights": config.weights.as_deref().map(path), "width": config.width,
    });
    args.as_object().cloned().unwrap_or_default()
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

/// A float as few digits as tell it apart.
fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}

/// One line for people: the loss, and the accuracies that count.
fn summary(record: &Map<String, Value>) -> String {
    let mut line = format!("step {}", record["step"]);
    for (key, value) in record {
        let Some(value) = value.as_f64() else { continue };
        match key.as_str() {
            "test_acc" | "test_unseen_acc" => line += &format!(", {key} {:.1} %", 100.0 * value),
            key if key.ends_with("_out_acc") => line += &format!(", {key} {:.1} %", 100.0 * value),
            "step" | "epoch" | "mem_gb" | "step_time" => {}
            key if key.ends_with("_acc") => {}
            key => line += &format!(", {key} {value:.4}"),
        }
    }
    line
}
