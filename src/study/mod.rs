//! `kaleid run`: every stage of the paper, from a data set to a report, in one folder.
//!
//! ```text
//! run.toml        the configuration, defaults filled in
//! data/           the demo's data set (your own stays where it is)
//! domains.json    prompts.jsonl
//! images/         DOMAIN/CLASS/00000.png, metadata.jsonl; plain/ and img2img/ for the arms of these names
//! diversity.json  diversity.svg  embedding.svg
//! train/ALGORITHM-VARIANT-SEED/    below train/TEST_DOMAIN/ where there are several
//! stages.json     adapter and seconds
//! progress.json   while it runs; it waits while a file `pause` is there
//! report.html  results.csv  classes.csv  domains.csv  tables.tex
//! ```
//!
//! Each stage resumes where it was interrupted, to the bytes of an uninterrupted run; only recorded times differ.

pub mod clock;
pub mod config;
pub mod curve;
pub mod demo;
pub mod embedded;
mod files;
mod forecast;
mod panels;
pub mod report;
pub mod results;
pub mod score;
pub mod select;
mod sets;
mod stages;
mod tsne;

use crate::core::{Gpu, GpuOptions};
use crate::data::{lock, write_atomic};
use crate::progress::{Watch, bail_if_stopped, pause};
use anyhow::{Context, Result, bail};
use clock::Clock;
use config::Study;
pub use sets::SETS;
use stages::Run;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Runs every stage that is not done in `out`, on the first of `adapters` and, where it is many images or trainings, on all; the path of the
/// report. `review`: it pauses before it paints, and before what is painted is used.
///
/// # Errors
/// Those of the stages; a folder that holds another run; Ctrl-C.
pub fn run(adapters: &[GpuOptions], study: &Study, out: &Path, review: bool) -> Result<PathBuf> {
    let adapter = adapters.first().context("no adapter")?;
    let _lock = claim(study, out)?;
    remove_leftovers(out);
    let _watch = Watch::new(out);
    let wait = |for_what: &str| -> Result<()> {
        if review {
            pause(out)?;
            eprintln!(
                "paused before {for_what}: look at it with `kaleid serve {}`, and resume there",
                out.display()
            );
        }
        bail_if_stopped()
    };
    let gpu = Gpu::open(adapter)?;
    let mut clock = Clock::open(out, &gpu.caps().adapter);
    let run = Run::new(study, out);
    if demo::is_builtin(&study.data) {
        clock.stage("data", || demo::unpack_data(&run.data))?;
    }
    let work = run.check(&gpu, adapter)?;
    clock.stage("prompts", || run.write_prompts(adapter))?;
    if run.images()?[1] > 0 {
        run.check_prompts()?;
        wait("painting what prompts.jsonl says")?;
    }
    let [_, left] = run.images()?;
    forecast::say(&gpu, left as f64 * work.image + work.training)?;
    clock.stage("images", || run.paint(&gpu, &adapters[1..]))?;
    let embeds = clock.stage("select", || run.select(&gpu, &adapters[1..], adapters))?;
    if !run.is_scored() {
        wait("scoring and training on these images")?;
    }
    clock.stage("score", || run.score(&gpu, embeds))?;
    // Each worker opens its own.
    drop(gpu);
    clock.stage("training", || run.train(adapters))?;
    report::run(out)
}

/// What [`run`] would do: a line for each stage with what is done and what it takes, then memory and disk. Times are predicted, from the
/// speed of one product on this adapter. Nothing is written into `out`.
///
/// # Errors
/// What would stop the run.
pub fn plan(adapter: &GpuOptions, study: &Study, out: &Path) -> Result<Vec<String>> {
    let file = out.join("run.toml");
    if file.exists() {
        may_go_on(study, &held(&file)?, out)?;
    }
    // The demo's data set is unpacked somewhere else while it is not there.
    let temp = std::env::temp_dir().join(format!("kaleid-plan-{}", std::process::id()));
    let unpacked = demo::is_builtin(&study.data) && !out.join("data").exists();
    let folder = if unpacked { &temp } else { out };
    if unpacked {
        demo::unpack_data(&folder.join("data"))?;
    }
    let lines =
        Gpu::open(adapter).and_then(|gpu| forecast::plan(&gpu, adapter, study, &Run::new(study, folder)));
    let _ = std::fs::remove_dir_all(&temp);
    lines
}

/// Makes `out` the folder of this configuration, or sees that it is. The file is held until the run ends: it is the lock that
/// keeps a second process out.
fn claim(study: &Study, out: &Path) -> Result<File> {
    let file = out.join("run.toml");
    if !file.exists() {
        write_atomic(&file, study.text()?.as_bytes())?;
    }
    let held = held(&file)?;
    let lock = File::open(&file).with_context(|| format!("{}: cannot read", file.display()))?;
    lock::hold(out, &lock)?;
    may_go_on(study, &held, out)?;
    if !held.extends(study) || !study.extends(&held) {
        write_atomic(&file, study.text()?.as_bytes())?;
        return claim(study, out);
    }
    Ok(lock)
}

/// The `run.toml` of the run in `dir`.
///
/// # Errors
/// A folder that is no run's.
pub fn run_toml(dir: &Path) -> Result<PathBuf> {
    let file = dir.join("run.toml");
    if !file.exists() {
        bail!("{}: no run.toml in it: give the --out folder of a `kaleid run`", dir.display());
    }
    Ok(file)
}

/// The configuration of a run.
fn held(file: &Path) -> Result<Study> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    Study::parse(&text, &file.display().to_string())
}

/// Refuses to go on with the run of `held` in another way. One that failed before it wrote its prompts leaves nothing to lose.
fn may_go_on(study: &Study, held: &Study, out: &Path) -> Result<()> {
    if !study.extends(held) && out.join("prompts.jsonl").exists() {
        let other = study.difference(held)?;
        bail!("{}: holds a run with other settings (here: {other}): choose another --out", out.display());
    }
    Ok(())
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
