//! One run: the order of things.

use super::folder::Folder;
use super::images::{EVAL_BATCH, Env, Shown, environments, leave_out_unreadable, warn_of_missing_classes};
use super::metrics::Metrics;
use super::settings::Training as Config;
use crate::core::{Gpu, OutOfMemory, Store};
use crate::data::checkpoint::Checkpoint;
use crate::data::dataset::{Dataset, Item};
use crate::data::images::Images;
use crate::domainbed::hparams::{Hparams, Preset};
use crate::domainbed::network::{Featurizer, Network, TrainNorm};
use crate::domainbed::samples::Rows;
use crate::domainbed::trainer::{Predictor, Spec, Trainer};
use crate::domainbed::{self, Algorithm, Setup, algorithm};
use crate::progress::{Progress, bail_if_stopped, stopped};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Least time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);

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
    config.check()?;
    let dataset = Dataset::open(&config.data)?;
    let mut envs = environments(config, &dataset)?;
    let training: Vec<usize> = (0..envs.len()).filter(|&e| !envs[e].test).collect();
    let (hparams, batch) = hyper_parameters(config, &envs, training.len())?;
    // Random weights need statistics of the batch; pretrained ones keep theirs, as DomainBed's papers do.
    let frozen = config.weights.is_some() && config.preset != Preset::Dbhead;
    let mode = if frozen { TrainNorm::Frozen } else { TrainNorm::Live };
    let network = Network {
        featurizer: Featurizer::named(config.arch(), config.size, config.width, config.stem()?, mode)?,
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

    let args = config.arguments(&dataset)?;
    let described = describe(&args, &hparams, &envs, config);
    let folder = Folder::open(out, &described)?;
    let mut records = folder.records()?;
    let regular = config.checkpoint_freq > 0;
    let measured = |step: usize| {
        config.swad && (step + 1 == config.steps() || step.is_multiple_of(config.checkpoint_freq))
    };
    let due = |step: usize| {
        if config.swad {
            return step + 1 == config.steps();
        }
        // In 2020, DomainBed did not look at the last step.
        (step + 1 == config.steps() && !(regular && config.preset == Preset::Db2020))
            || (regular && step.is_multiple_of(config.checkpoint_freq))
    };
    if out.join("done").exists() {
        folder.check_records(&records, (0..config.steps()).filter(|&s| due(s)))?;
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
    let (start, mut swad) = folder.restore(&mut store, config.steps())?;
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
    let progress = Progress::new("train", config.steps() as u64, "steps");
    progress.skip(start as u64);
    let ends = |step: usize| due(step) || measured(step) || (step + 1).is_multiple_of(config.log_every);
    let mut metrics = Metrics::open(out, start, ends, &records)?;
    let (mut since, mut saved, mut clock) = (first, Instant::now(), Instant::now());
    let mut row_clock = (start, Instant::now());
    // Seconds of the host's work on minibatches, which the device does not wait for unless its own takes less.
    let preparing = Cell::new(0.0);
    let minibatch = |step: usize| {
        let start = Instant::now();
        let made = (step < config.steps()).then(|| shown.minibatch(step, &training, batch));
        preparing.set(preparing.get() + start.elapsed().as_secs_f64());
        made
    };
    if config.swad {
        trainer.average_anew((0..start).rev().find(|&s| measured(s)).map_or(0, |s| s as u32 + 1));
    }
    let mut next = minibatch(start);
    for step in start..config.steps() {
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
            if step + 1 < config.steps() {
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
