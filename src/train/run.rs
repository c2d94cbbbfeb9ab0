//! One run: the order of things.

use super::clocks::{Clocks, Lap, now};
use super::environments::{Env, environments, leave_out_unreadable, warn_of_missing_classes};
use super::evaluate::{Minibatch, Shown};
use super::folder::Folder;
use super::metrics::Metrics;
use super::schedule::Schedule;
use super::settings::Training;
use super::swad::Swad;
use super::task::{Task, check_batch};
use crate::core::{Gpu, Needs, Store};
use crate::data::dataset::{Dataset, Item};
use crate::data::disk::room_for;
use crate::data::images::Images;
use crate::domainbed::predictor::Predictor;
use crate::domainbed::samples::Rows;
use crate::domainbed::trainer::Trainer;
use crate::progress::{self, Progress, bail_if_stopped, stopped};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Share of all images of the test domains that were classified rightly.
    pub accuracy: f64,
    /// Mean over classes of the share of each.
    pub balanced_accuracy: Option<f64>,
    /// Share over the concepts that were kept from training.
    pub unseen_accuracy: Option<f64>,
    /// The rows of results.jsonl.
    pub records: Vec<Map<String, Value>>,
}

impl Outcome {
    fn new(records: Vec<Map<String, Value>>) -> Result<Outcome> {
        let last = records.last().context("no results")?;
        let number = |key: &str| last.get(key).and_then(Value::as_f64);
        Ok(Outcome {
            accuracy: number("test_acc").unwrap_or(f64::NAN),
            balanced_accuracy: number("test_balanced_acc"),
            unseen_accuracy: number("test_unseen_acc"),
            records,
        })
    }
}

/// Sees that a run of these settings can begin, without reading an image or a weight: what one of its updates takes.
///
/// # Errors
/// Data, weights or flags that do not fit, each in one line; too little device memory.
pub fn check(gpu: &Gpu, settings: &Training) -> Result<Needs> {
    settings.check()?;
    let dataset = Dataset::open(&settings.data)?;
    let envs = environments(settings, &dataset)?;
    Task::new(settings, &dataset, &envs)?.needs(gpu)
}

/// Trains, or resumes, or only reads, the run in `settings.out`.
///
/// # Errors
/// Those of [`check`]; a folder that holds another run, a disk without room; Ctrl-C.
pub fn run(gpu: &Gpu, settings: &Training) -> Result<Outcome> {
    settings.check()?;
    let dataset = Dataset::open(&settings.data)?;
    let envs = environments(settings, &dataset)?;
    let task = Task::new(settings, &dataset, &envs)?;
    let schedule = Schedule::new(settings);
    let folder = Folder::open(&settings.out, task.describe(&envs))?;
    if folder.is_done() {
        return Outcome::new(folder.records(schedule.steps, &schedule)?);
    }
    let needs = task.needs(gpu)?;
    // A checkpoint is whole before it takes the place of the last one.
    room_for(&settings.out, 2 * needs.memory.state as u64)?;
    let images: usize = envs.iter().map(|e| e.items.len()).sum();
    let memory = needs.memory.total() >> 20;
    progress::say(&format!("{images} images; {} steps, each of which takes {memory} MiB", schedule.steps));

    let mut run = Run::open(gpu, task, envs, schedule, folder)?;
    while let Some(step) = run.next() {
        run.update(step)?;
        if schedule.row_ends(step) {
            run.log(step)?;
        }
        if schedule.result_due(step) {
            run.evaluate(step)?;
        }
        run.save_if_due(step)?;
    }
    run.finish()
}

/// A run under way.
struct Run<'a> {
    task: Task<'a>,
    schedule: Schedule,
    folder: Folder<'a>,
    shown: Shown<'a>,
    store: Store,
    trainer: Trainer,
    predictor: Predictor,
    swad: Swad,
    metrics: Metrics,
    /// The rows of results.jsonl.
    records: Vec<Map<String, Value>>,
    clocks: Clocks,
    progress: Progress,
    /// The next step and its minibatch, if there is one.
    step: usize,
    minibatch: Option<Minibatch>,
}

impl<'a> Run<'a> {
    /// Reads the images and plans the network; its state is that of the last checkpoint, where there is one.
    fn open(
        gpu: &Gpu,
        task: Task<'a>,
        mut envs: Vec<Env>,
        schedule: Schedule,
        folder: Folder<'a>,
    ) -> Result<Run<'a>> {
        let settings = task.settings;
        let images = read_images(settings, &envs)?;
        folder.check_skipped(&leave_out_unreadable(settings, &mut envs, &images)?)?;
        check_batch(&envs, task.batch)?;
        warn_of_missing_classes(&envs, &task.dataset.classes);
        let shown = Shown::new(settings, &task.dataset.classes, &task.hparams, envs, images);

        let mut store = Store::new(gpu);
        let (start, swad) = folder.restore(&mut store, schedule.steps)?;
        let records = folder.records(start, &schedule)?;
        let restored = store.names();
        let samples = shown.samples();
        // SWAD looks at the weights as they are.
        let plans = task
            .trainer(&mut store, &samples)
            .and_then(|trainer| Ok((trainer, task.predictor(&store, &samples, !settings.swad)?)));
        let (mut trainer, predictor) = match start {
            0 => plans?,
            _ => plans.with_context(|| folder.cannot_resume())?,
        };
        if start > 0
            && let Some(name) = store.names().iter().find(|n| restored.binary_search(n).is_err())
        {
            bail!("{}: it lacks {name}", folder.cannot_resume());
        }
        let saving = trainer.saving().to_string();
        if !saving.is_empty() {
            eprintln!("a step takes {} MiB, with {saving}", trainer.memory() >> 20);
        }
        if settings.swad {
            trainer.average_anew(schedule.average_since(start) as u32);
        }

        let metrics = Metrics::open(&settings.out, start, &schedule, &records)?;
        let progress = Progress::new("train", schedule.steps as u64, "steps");
        progress.skip(start as u64);
        let result = records.last().and_then(|r| r["step"].as_u64()).map_or(0, |s| s as usize + 1);
        let clocks = Clocks::new(start, result);
        let (step, minibatch) = (start, None);
        let mut run = Run {
            task,
            schedule,
            folder,
            shown,
            store,
            trainer,
            predictor,
            swad,
            metrics,
            records,
            clocks,
            progress,
            step,
            minibatch,
        };
        run.prepare();
        Ok(run)
    }

    /// Makes the minibatch of the next step.
    fn prepare(&mut self) {
        let began = Instant::now();
        let more = self.step < self.schedule.steps;
        self.minibatch = more.then(|| self.shown.minibatch(self.step, self.task.batch));
        self.clocks.preparing += began.elapsed();
    }

    /// The step to make, until all are made.
    fn next(&mut self) -> Option<usize> {
        let step = self.step;
        self.minibatch.is_some().then_some(step)
    }

    /// Hands an update to the device, and prepares the next while that works.
    fn update(&mut self, step: usize) -> Result<()> {
        let Minibatch { pictures, labels, weights } =
            self.minibatch.take().context("no minibatch was made")?;
        weights.map(|weights| self.trainer.weigh(&weights)).transpose()?;
        self.trainer.step(step as u32, Rows::Pictures(&pictures), &labels, self.metrics.since())?;
        self.step = step + 1;
        self.prepare();
        self.progress.inc(1);
        self.metrics.poll()
    }

    /// Ends a row of metrics, with SWAD's validation loss where it is measured.
    fn log(&mut self, step: usize) -> Result<()> {
        let seconds = self.clocks.row.seconds(step);
        let mut row = Map::from_iter([("step_time".into(), json!(seconds)), ("time".into(), json!(now()))]);
        if self.schedule.measured(step) {
            let loss = self.shown.validation_loss(&mut self.predictor, step);
            let loss = loss.with_context(|| format!("after step {step}"))?;
            self.swad.measured(&self.store, step, loss)?;
            self.trainer.average_anew(step as u32 + 1);
            row.insert("validation_loss".into(), json!(loss));
        }
        self.metrics.end_row(&self.trainer, step, row)?;
        self.clocks.row = Lap::new(step + 1);
        Ok(())
    }

    /// Adds a result: what was logged since the last one, and accuracies. With SWAD it is that of the average.
    fn evaluate(&mut self, step: usize) -> Result<()> {
        self.metrics.flush()?;
        let mut record = self.record(step);
        if self.task.settings.swad {
            let [start, end] = std::mem::take(&mut self.swad).finish(&mut self.store)?;
            record.insert("swad_start".into(), json!(start));
            record.insert("swad_end".into(), json!(end));
            self.predictor = self.task.predictor(&self.store, &self.shown.samples(), true)?;
        }
        let evaluated = self.shown.evaluate(&mut self.predictor, step, &mut record);
        evaluated.with_context(|| format!("after step {step}"))?;
        self.progress.say(&summary(&record));
        self.records.push(record);
        self.folder.write_records(&self.records)?;
        self.clocks = Clocks::new(step + 1, step + 1);
        Ok(())
    }

    /// A row of results.jsonl, without accuracies.
    fn record(&self, step: usize) -> Map<String, Value> {
        let (lap, batch) = (&self.clocks.result, self.task.batch as f64);
        let means = self.metrics.means(&self.trainer, lap.from);
        let mut record: Map<_, _> = means.into_iter().map(|(name, value)| (name, json!(value))).collect();
        record.insert("step_time".into(), json!(lap.seconds(step)));
        record.insert("data_time".into(), json!(self.clocks.preparing.as_secs_f64() / lap.steps(step)));
        record.insert("step".into(), json!(step));
        record.insert("epoch".into(), json!(step as f64 / (self.shown.smallest() as f64 / batch)));
        record.insert("mem_gb".into(), json!(self.trainer.memory() as f64 / f64::from(1 << 30)));
        record.insert("hparams".into(), Value::Object(self.task.hparams.0.clone()));
        record.insert("args".into(), Value::Object(self.task.args.clone()));
        record
    }

    /// Writes a checkpoint with every result (and the curves, which are worth less, after it), now and then between them, and when
    /// the run is stopped.
    fn save_if_due(&mut self, step: usize) -> Result<()> {
        let result = self.schedule.result_due(step);
        if !(result || stopped() || self.clocks.save_due()) {
            return Ok(());
        }
        let began = Instant::now();
        self.metrics.flush()?;
        self.folder.save(&self.store, step + 1, &self.swad)?;
        if result {
            self.metrics.draw(&self.trainer, &self.records)?;
        }
        self.clocks.saved(began);
        // After the last step nothing is left to stop.
        if self.minibatch.is_some() { bail_if_stopped() } else { Ok(()) }
    }

    /// Writes the trained network.
    fn finish(self) -> Result<Outcome> {
        if let Some(line) = self.metrics.spark(&self.trainer) {
            self.progress.say(&line);
        }
        self.progress.finish();
        self.folder.write_model(&self.store, &self.predictor, &self.task)?;
        Outcome::new(self.records)
    }
}

fn read_images(settings: &Training, envs: &[Env]) -> Result<Images> {
    let total: usize = envs.iter().map(|e| e.items.len()).sum();
    let progress = Progress::new("images", total as u64, "images");
    let lists: Vec<&[Item]> = envs.iter().map(|e| &e.items[..]).collect();
    let cache = settings.out.join("images.cache");
    let images = Images::load(&lists, settings.image_memory, &cache, || progress.inc(1))?;
    progress.finish();
    Ok(images)
}

/// One line for people: the loss, and the accuracies that count.
fn summary(record: &Map<String, Value>) -> String {
    let mut line = format!("step {}", record["step"]);
    for (key, value) in record {
        let Some(value) = value.as_f64() else { continue };
        match key.as_str() {
            "test_acc" | "test_balanced_acc" | "test_unseen_acc" => {
                line += &format!(", {key} {:.1} %", 100.0 * value)
            }
            key if key.ends_with("_out_acc") => line += &format!(", {key} {:.1} %", 100.0 * value),
            "step" | "epoch" | "mem_gb" | "step_time" | "data_time" => {}
            key if key.ends_with("_acc") => {}
            key => line += &format!(", {key} {value:.4}"),
        }
    }
    line
}
