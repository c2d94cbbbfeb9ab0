//! What the trainings of a run came to: accuracies by algorithm and variant, and what they say.

use super::config::Study;
use crate::data::stats::{Mean, verdict};
use crate::sweep::records::{Record, record};
use crate::sweep::select::validation;
use crate::train::Variant;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folder of a training of the run in `out`.
pub fn folder(out: &Path, algorithm: &str, variant: Variant, seed: u64) -> PathBuf {
    out.join("train").join(format!("{algorithm}-{}-{seed}", variant.name()))
}

/// Accuracies on the held-out domain of one algorithm on one variant, by seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracies {
    /// DomainBed's name.
    pub algorithm: String,
    /// Which generated images joined.
    pub variant: Variant,
    /// Of all images.
    pub seeds: BTreeMap<u64, f64>,
    /// Mean over classes, since these differ in size; empty where trainings of before did not record it.
    pub balanced: BTreeMap<u64, f64>,
    /// Of the concepts that were kept from training.
    pub unseen: BTreeMap<u64, f64>,
}

impl Accuracies {
    /// Mean over all images and seeds.
    pub fn all(&self) -> Mean {
        Mean::of(&self.seeds.values().copied().collect::<Vec<_>>())
    }

    /// The same of another accuracy, where each seed has it.
    pub fn mean(&self, of: &BTreeMap<u64, f64>) -> Option<Mean> {
        (of.len() == self.seeds.len()).then(|| Mean::of(&of.values().copied().collect::<Vec<_>>()))
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
            let [mut seeds, mut balanced, mut unseen] = [const { BTreeMap::new() }; 3];
            for seed in 0..study.compare.seeds {
                let folder = folder(dir, algorithm, variant, seed);
                if folder.join("done").exists() {
                    let record = selected(&folder.join("results.jsonl"))?;
                    seeds.extend(record.test.map(|v| (seed, v)));
                    balanced.extend(record.balanced.map(|v| (seed, v)));
                    unseen.extend(record.unseen.map(|v| (seed, v)));
                }
            }
            if !seeds.is_empty() {
                rows.push(Accuracies { algorithm: algorithm.clone(), variant, seeds, balanced, unseen });
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
        let cells = variants.iter().map(|&v| shown(of(algorithm, v).map(Accuracies::all))).collect();
        table.push((algorithm.clone(), cells));
    }
    let average = |variant: Variant| {
        let all: Option<Vec<&Accuracies>> = study.compare.algorithms.iter().map(|a| of(a, variant)).collect();
        let all = all.filter(|all| all.iter().all(|row| row.seeds.keys().eq(all[0].seeds.keys())))?;
        let means =
            all[0].seeds.keys().map(|s| all.iter().map(|r| r.seeds[s]).sum::<f64>() / all.len() as f64);
        Some(Mean::of(&means.collect::<Vec<_>>()))
    };
    table.push(("average".into(), variants.iter().map(|&v| shown(average(v))).collect()));
    (variants.iter().map(|v| v.name()).collect(), table)
}

/// What the table says, in sentences: each variant against the originals alone, seed by seed.
pub fn findings(rows: &[Accuracies]) -> Vec<String> {
    let mut lines = vec![];
    for row in rows.iter().filter(|r| r.variant != Variant::O) {
        let Some(o) = rows.iter().find(|o| o.variant == Variant::O && o.algorithm == row.algorithm) else {
            continue;
        };
        let (algorithm, variant) = (&row.algorithm, row.variant.name());
        let differences = |of: &BTreeMap<u64, f64>, o: &BTreeMap<u64, f64>| -> Vec<f64> {
            of.iter().filter_map(|(seed, v)| Some(v - o.get(seed)?)).collect()
        };
        for (what, of, o) in [("", &row.seeds, &o.seeds), (", balanced accuracy", &row.balanced, &o.balanced)]
        {
            let differences = differences(of, o);
            if !differences.is_empty() {
                lines.push(format!("{algorithm}: {variant} against o{what}: {}", verdict(&differences)));
            }
        }
    }
    lines
}
