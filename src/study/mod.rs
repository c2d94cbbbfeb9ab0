//! `kaleid run`: every stage of the paper, from a data set to a report, in one folder.
//!
//! ```text
//! run.toml        the configuration, defaults filled in
//! data/           the demo's data set (your own stays where it is)
//! domains.json    prompts.jsonl
//! images/         DOMAIN/CLASS/00000.png, metadata.jsonl
//! diversity.json  diversity.svg
//! train/ALGORITHM-VARIANT-SEED/
//! stages.json     adapter and seconds
//! report.html
//! ```
//!
//! Each stage resumes where it was interrupted, to the bytes of an uninterrupted run; only recorded times differ.

pub mod clock;
pub mod config;
pub mod curve;
pub mod demo;
pub mod report;
pub mod results;
pub mod score;

use crate::core::{Gpu, GpuOptions};
use crate::data::{lock, write_atomic};
use crate::paint::generate;
use crate::paint::picture::{Picture, read_pictures};
use crate::paint::prompts::{self, Grammar, Llm, Prompting};
use crate::progress::time_left;
use crate::train::{self, Training, Variant};
use anyhow::{Context, Result, bail};
use clock::Clock;
use config::Study;
use score::Scoring;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs every stage that is not done in `out`; the path of the report.
///
/// # Errors
/// Those of the stages; a folder that holds another run; Ctrl-C.
pub fn run(adapter: &GpuOptions, study: &Study, out: &Path) -> Result<PathBuf> {
    let _lock = claim(study, out)?;
    remove_leftovers(out);
    let gpu = Gpu::open(adapter)?;
    let mut clock = Clock::open(out, &gpu.caps().adapter);
    let run = Run::new(study, out);
    if demo::is_builtin(&study.data) {
        clock.stage("data", || demo::unpack_data(&run.data))?;
    }
    clock.stage("prompts", || run.write_prompts(adapter))?;
    clock.stage("images", || run.paint(&gpu))?;
    clock.stage("score", || run.score(&gpu))?;
    run.train(&gpu, &mut clock)?;
    report::run(out)
}

/// What all stages share.
struct Run<'a> {
    study: &'a Study,
    out: &'a Path,
    /// ROOT/DOMAIN/CLASS/image: the originals.
    data: PathBuf,
    /// The generated images, a tree of the same shape.
    images: PathBuf,
    grammar: Grammar,
}

impl<'a> Run<'a> {
    fn new(study: &'a Study, out: &'a Path) -> Run<'a> {
        let grammar = if demo::is_builtin(&study.data) { Grammar::demo() } else { Grammar::general() };
        Run { study, out, data: demo::data(&study.data, out), images: out.join("images"), grammar }
    }

    fn write_prompts(&self, adapter: &GpuOptions) -> Result<()> {
        let writing = self.study.prompts.clone();
        let llm = Llm::parse(&writing.llm, writing.model.as_deref(), adapter).context("[prompts] llm")?;
        let (hold_out, seed) = (vec![self.study.test_domain.clone()], self.study.seed);
        let prompting = Prompting { hold_out, seed, writing, ..Prompting::new(&self.data, self.out) };
        prompts::run(&prompting, &llm, &self.grammar)?;
        Ok(())
    }

    fn pictures(&self) -> Result<Vec<Picture>> {
        read_pictures(&self.out.join("prompts.jsonl"))
    }

    fn paint(&self, gpu: &Gpu) -> Result<()> {
        let options = &self.study.images;
        let model = demo::folder(&options.model, "stable-diffusion");
        generate::run(gpu, &model, &self.pictures()?, &self.images, options, self.study.seed)?;
        Ok(())
    }

    fn score(&self, gpu: &Gpu) -> Result<()> {
        // Scoring writes this file last, from images that do not change any more: once it is there, the stage is done.
        if self.out.join("diversity.json").exists() {
            return Ok(());
        }
        let name = |folder: String| (folder.clone(), self.grammar.domain(&folder).name);
        let scoring = Scoring {
            data: self.data.clone(),
            generated: self.images.clone(),
            hold_out: vec![self.study.test_domain.clone()],
            names: self.pictures()?.into_iter().filter_map(|p| p.domain).map(name).collect(),
            seed: self.study.seed,
            measure: self.study.score.clone(),
        };
        score::run(gpu, &scoring, self.out)?;
        Ok(())
    }

    fn train(&self, gpu: &Gpu, clock: &mut Clock) -> Result<()> {
        let trainings = self.trainings();
        let is_done = |training: &&Training| training.out.join("done").exists();
        let mut took = vec![];
        for (i, training) in trainings.iter().enumerate() {
            let name = training.out.file_name().unwrap_or_default().to_string_lossy();
            let left = trainings.len() - trainings.iter().filter(is_done).count();
            let rest = time_left(&took, left, 1).map_or(String::new(), |time| format!(", about {time} left"));
            eprintln!("training {} of {}: {name}{rest}", i + 1, trainings.len());
            let (new, start) = (!is_done(&training), Instant::now());
            clock.stage("training", || train::run(gpu, training))?;
            took.extend(new.then(|| start.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    /// Every training, grouped by seed, so that an interrupted run already has variants to compare.
    fn trainings(&self) -> Vec<Training> {
        let (study, mut trainings) = (self.study, vec![]);
        for seed in 0..study.compare.seeds {
            for algorithm in &study.compare.algorithms {
                for &variant in &study.compare.variants {
                    trainings.push(Training {
                        extra: (variant != Variant::O).then(|| self.images.clone()),
                        variant,
                        test_domains: vec![study.test_domain.clone()],
                        algorithm: algorithm.clone(),
                        trial_seed: seed,
                        seed: study.seed + seed,
                        settings: study.train.clone(),
                        ..Training::new(&self.data, results::folder(self.out, algorithm, variant, seed))
                    });
                }
            }
        }
        trainings
    }
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
    lock::hold(out, &lock)?;
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
