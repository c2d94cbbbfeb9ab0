//! What the trainings of a run came to: accuracies by algorithm and variant, and what they say.

use super::config::Study;
use crate::sweep::records::{Record, record};
use crate::sweep::select::validation;
use crate::train::Variant;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Folder of a training of the run in `out`.
pub fn folder(out: &Path, algorithm: &str, variant: Variant, seed: u64) -> PathBuf {
    out.join("train").join(format!("{algorithm}-{}-{seed}", variant.name()))
}

/// Accuracies of one algorithm on one variant, over seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracies {
    /// DomainBed's name.
    pub algorithm: String,
    /// Which generated images joined.
    pub variant: Variant,
    /// Accuracy on the held-out domain, of each seed.
    pub seeds: Vec<f64>,
    /// Mean and standard error of `seeds`.
    pub all: Mean,
    /// The same over the concepts that were kept from training.
    pub unseen: Option<Mean>,
}

/// Mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Standard deviation (n - 1) over the root of n; 0 with one seed.
    pub standard_error: f64,
}

impl Mean {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Mean {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let standard_error = if values.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Mean { mean, standard_error }
    }
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:.1} ± {:.1} %", 100.0 * self.mean, 100.0 * self.standard_error)
    }
}

/// The trainings that are done in the run `dir`, by algorithm and variant in the order of its configuration.
///
/// # Errors
/// Files that are not what a run writes.
pub fn table(dir: &Path, study: &Study) -> Result<Vec<Accuracies>> {
    let mut rows = vec![];
    for algorithm in &study.compare.algorithms {
        for &variant in &study.compare.variants {
            let (mut seeds, mut unseen) = (vec![], vec![]);
            for seed in 0..study.compare.seeds {
                let folder = folder(dir, algorithm, variant, seed);
                if folder.join("done").exists() {
                    let record = selected(&folder.join("results.jsonl"))?;
                    seeds.extend(record.test);
                    unseen.extend(record.unseen);
                }
            }
            if !seeds.is_empty() {
                let all = Mean::of(&seeds);
                let unseen = (unseen.len() == seeds.len()).then(|| Mean::of(&unseen));
                rows.push(Accuracies { algorithm: algorithm.clone(), variant, seeds, all, unseen });
            }
        }
    }
    Ok(rows)
}

/// The record that validation on the training domains selects: the first of the best, as DomainBed does it.
fn selected(file: &Path) -> Result<Record> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let mut records = vec![];
    for (i, line) in text.lines().enumerate() {
        let place = || format!("{}: line {} is no result", file.display(), i + 1);
        records.push(record(file, line).with_context(place)?);
    }
    let better = |held: Record, new| if validation(&new) > validation(&held) { new } else { held };
    records.into_iter().reduce(better).with_context(|| format!("{}: no results in it", file.display()))
}

/// The paper's Table 1: algorithms by variants, and their average over algorithms (each seed's mean first). Its header and rows.
pub fn matrix(rows: &[Accuracies], study: &Study) -> (Vec<&'static str>, Vec<(String, Vec<String>)>) {
    let variants = &study.compare.variants;
    let of = |algorithm: &str, variant: Variant| {
        rows.iter().find(|r| r.algorithm == algorithm && r.variant == variant)
    };
    let shown = |mean: Option<Mean>| mean.map_or("–".into(), |m| m.to_string());
    let mut table: Vec<(String, Vec<String>)> = vec![];
    for algorithm in &study.compare.algorithms {
        let cells = variants.iter().map(|&v| shown(of(algorithm, v).map(|r| r.all))).collect();
        table.push((algorithm.clone(), cells));
    }
    let average = |variant: Variant| {
        let all: Option<Vec<&Accuracies>> = study.compare.algorithms.iter().map(|a| of(a, variant)).collect();
        let all = all.filter(|all| all.iter().all(|row| row.seeds.len() == all[0].seeds.len()))?;
        let seeds = 0..all[0].seeds.len();
        let means = seeds.map(|s| all.iter().map(|r| r.seeds[s]).sum::<f64>() / all.len() as f64);
        Some(Mean::of(&means.collect::<Vec<_>>()))
    };
    table.push(("average".into(), variants.iter().map(|&v| shown(average(v))).collect()));
    (variants.iter().map(|v| v.name()).collect(), table)
}

/// What the table says, in sentences: each variant against the originals alone.
pub fn findings(rows: &[Accuracies]) -> Vec<String> {
    let mut lines = vec![];
    for row in rows.iter().filter(|r| r.variant != Variant::O) {
        let Some(o) = rows.iter().find(|o| o.variant == Variant::O && o.algorithm == row.algorithm) else {
            continue;
        };
        let points = 100.0 * (row.all.mean - o.all.mean);
        let error = 100.0 * row.all.standard_error.hypot(o.all.standard_error);
        let verdict = match (points / error).abs() {
            _ if error == 0.0 => "one seed has no error bar".to_string(),
            ratio if ratio < 2.0 => format!("{ratio:.1} standard errors: seeds could do that"),
            ratio => format!("{ratio:.1} standard errors"),
        };
        lines.push(format!(
            "{}: {} against o: {points:+.1} points ({verdict})",
            row.algorithm,
            row.variant.name()
        ));
    }
    lines
}
