//! `kaleid run`: every stage of the paper, from a data set to a report, in one folder.
//!
//! ```text
//! run.toml        the configuration, with everything that was left to defaults
//! data/           the demo's data set (your own stays where it is)
//! domains.json    prompts.jsonl
//! images/         DOMAIN/CLASS/00000.png, metadata.jsonl
//! diversity.json  diversity.svg
//! train/ALGORITHM-VARIANT-SEED/
//! stages.json     adapter and seconds
//! report.html
//! ```
//!
//! Each stage goes on where it was cut, to the bytes of an uncut run; times are all that differs.

pub mod config;
pub mod demo;
pub mod report;
pub mod score;

use crate::core::{Gpu, GpuOptions};
use crate::data::write_atomic;
use crate::paint::generate;
use crate::paint::prompts::{self, Grammar, Llm};
use crate::progress::duration;
use crate::train::{self, Training, Variant};
use anyhow::{Context, Result, bail};
use config::{Prompts, Stages, Study};
use demo::BUILTIN;
use score::Scoring;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs every stage that is not done in `out`; the path of the report.
///
/// # Errors
/// Those of the stages; a folder that holds another run; Ctrl-C.
pub fn run(adapter: &GpuOptions, study: &Study, out: &Path) -> Result<PathBuf> {
    let _lock = claim(study, out)?;
    remove_leftovers(out);
    let gpu = &Gpu::open(adapter)?;
    let demo = study.data == Path::new(BUILTIN);
    let data = if demo { out.join("data") } else { study.data.clone() };
    let images = out.join("images");
    let mut clock = Clock::open(out, gpu)?;

    if demo {
        clock.stage("data", || demo::unpack_data(&data))?;
    }

    let grammar = if demo { Grammar::demo() } else { Grammar::general() };
    let settings = prompts_config(study, adapter, &data, out)?;
    clock.stage("prompts", || prompts::run(&settings, &grammar))?;

    let jobs = generate::read_jobs(&out.join("prompts.jsonl"))?;
    let model = demo::folder(&study.images.model, "stable-diffusion");
    clock.stage("images", || generate::run(gpu, &model, &jobs, &images, &study.images, study.seed))?;

    // Written last of all that scoring writes, from images that do not change: with it, scoring is done.
    if !out.join("diversity.json").exists() {
        let folders = jobs.iter().filter_map(|job| job.domain.clone());
        let names = folders.map(|f| (f.clone(), grammar.domain(&f).name)).collect();
        let scoring = Scoring {
            data: data.clone(),
            generated: images.clone(),
            hold_out: vec![study.test_domain.clone()],
            names,
            seed: study.seed,
            measure: study.score.clone(),
        };
        clock.stage("score", || score::run(gpu, &scoring, out))?;
    }

    let jobs = trainings(study, &data, &images, out);
    let is_done = |job: &&Training| job.out.join("done").exists();
    let (mut trained, mut seconds) = (0, 0.0);
    for (i, job) in jobs.iter().enumerate() {
        let name = job.out.file_name().unwrap_or_default().to_string_lossy();
        let left = jobs.len() - jobs.iter().filter(is_done).count();
        let rest = match trained {
            0 => String::new(),
            n => format!(", about {} left", duration(seconds / f64::from(n) * left as f64)),
        };
        eprintln!("training {} of {}: {name}{rest}", i + 1, jobs.len());
        let (new, started) = (!is_done(&job), Instant::now());
        clock.stage("training", || train::run(gpu, job))?;
        if new {
            (trained, seconds) = (trained + 1, seconds + started.elapsed().as_secs_f64());
        }
    }
    report::run(out)
}

/// Makes `out` the folder of this configuration, or sees that it is. The file is held until the run ends: it is the lock that
/// keeps a second process out.
fn claim(study: &Study, out: &Path) -> Result<File> {
    let file = out.join("run.toml");
    if !file.exists() {
        write_atomic(&file, study.text()?.as_bytes())?;
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}: cannot read", file.display()))?;
    let held = Study::parse(&text, &file.display().to_string())?;
    if !study.extends(&held) {
        let other = study.difference(&held)?;
        bail!("{}: holds a run with other settings (here: {other}): choose another --out", out.display());
    }
    let lock = File::open(&file).with_context(|| format!("{}: cannot read", file.display()))?;
    // Where a file system has no locks, there is none to respect.
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        bail!(
            "{}: another process is running in this folder: wait for it, or choose another --out",
            out.display()
        );
    }
    if !held.extends(study) {
        write_atomic(&file, study.text()?.as_bytes())?;
        return claim(study, out);
    }
    Ok(lock)
}

/// Removes what processes that were killed while they wrote a file left behind.
fn remove_leftovers(folder: &Path) {
    for path in std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())) {
        if path.is_dir() {
            remove_leftovers(&path);
        } else if path.extension().is_some_and(|e| e == "tmp") {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn prompts_config(study: &Study, adapter: &GpuOptions, data: &Path, out: &Path) -> Result<prompts::Config> {
    let Prompts { llm, model, new, domains, share, include_test_style } = study.prompts.clone();
    Ok(prompts::Config {
        data: data.to_path_buf(),
        out: out.to_path_buf(),
        hold_out: vec![study.test_domain.clone()],
        new,
        domains,
        share,
        include_test_style,
        seed: study.seed,
        llm: Llm::parse(&llm, model, adapter).context("[prompts] llm")?,
    })
}

/// Every training, those of one seed together, so that a cut run has something to compare.
fn trainings(study: &Study, data: &Path, images: &Path, out: &Path) -> Vec<Training> {
    let mut trainings = vec![];
    for seed in 0..study.compare.seeds {
        for algorithm in &study.compare.algorithms {
            for &variant in &study.compare.variants {
                let name = format!("{algorithm}-{}-{seed}", variant.name());
                trainings.push(Training {
                    extra: (variant != Variant::O).then(|| images.to_path_buf()),
                    variant,
                    test_domains: vec![study.test_domain.clone()],
                    algorithm: algorithm.clone(),
                    trial_seed: seed,
                    seed: study.seed + seed,
                    settings: study.train.clone(),
                    ..Training::new(data, out.join("train").join(name))
                });
            }
        }
    }
    trainings
}

/// Seconds of the stages, kept in stages.json.
struct Clock {
    file: PathBuf,
    stages: Stages,
}

impl Clock {
    fn open(out: &Path, gpu: &Gpu) -> Result<Clock> {
        let file = out.join("stages.json");
        // Times are for show: a file that is no such file is begun again.
        let held = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let stages = Stages {
            adapter: gpu.caps().adapter.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..held.unwrap_or_default()
        };
        Ok(Clock { file, stages })
    }

    /// Does a stage. Its time counts when it fails or is stopped, too.
    fn stage<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let since = Instant::now();
        let done = work();
        *self.stages.seconds.entry(name.into()).or_default() += since.elapsed().as_secs_f64();
        let written =
            write_atomic(&self.file, (serde_json::to_string_pretty(&self.stages)? + "\n").as_bytes());
        let done = done?; // the stage's own error is the one to tell
        written?;
        Ok(done)
    }
}
