//! `report.html` of a run: pictures, the diversity curve, the table of variants, times and settings, in one file that loads
//! nothing from elsewhere.

use super::config::{Stages, Study};
use super::generate::Job;
use super::score::Diversity;
use crate::data::write_atomic;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::Environment;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Accuracies of one algorithm on one variant, over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// DomainBed's name.
    pub algorithm: String,
    /// o, q, d or qd.
    pub variant: String,
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
pub fn table(dir: &Path, study: &Study) -> Result<Vec<Row>> {
    let mut rows = vec![];
    for algorithm in &study.compare.algorithms {
        for variant in study.compare.variants.iter().map(|v| v.name()) {
            let (mut seeds, mut unseen) = (vec![], vec![]);
            for seed in 0..study.compare.seeds {
                let folder = dir.join("train").join(format!("{algorithm}-{variant}-{seed}"));
                if !folder.join("done").exists() {
                    continue;
                }
                let record = selected(&folder.join("results.jsonl"))?;
                seeds.extend(record.get("test_acc").and_then(Value::as_f64));
                unseen.extend(record.get("test_unseen_acc").and_then(Value::as_f64));
            }
            if !seeds.is_empty() {
                let (algorithm, variant) = (algorithm.clone(), variant.to_string());
                let all = Mean::of(&seeds);
                let unseen = (unseen.len() == seeds.len()).then(|| Mean::of(&unseen));
                rows.push(Row { algorithm, variant, seeds, all, unseen });
            }
        }
    }
    Ok(rows)
}

/// The paper's Table 1: algorithms by variants, and their average over algorithms (each seed's mean first). Its header and rows.
fn matrix(rows: &[Row], study: &Study) -> (Vec<&'static str>, Vec<(String, Vec<String>)>) {
    let variants: Vec<&str> = study.compare.variants.iter().map(|v| v.name()).collect();
    let of = |algorithm: &str, variant: &str| {
        rows.iter().find(|r| r.algorithm == algorithm && r.variant == variant)
    };
    let shown = |mean: Option<Mean>| mean.map_or("–".into(), |m| m.to_string());
    let mut table: Vec<(String, Vec<String>)> = vec![];
    for algorithm in &study.compare.algorithms {
        let cells = variants.iter().map(|v| shown(of(algorithm, v).map(|r| r.all))).collect();
        table.push((algorithm.clone(), cells));
    }
    let average = |variant: &&str| {
        let all: Option<Vec<&Row>> = study.compare.algorithms.iter().map(|a| of(a, variant)).collect();
        let all = all.filter(|all| all.iter().all(|row| row.seeds.len() == all[0].seeds.len()))?;
        let seeds = 0..all[0].seeds.len();
        let means = seeds.map(|s| all.iter().map(|r| r.seeds[s]).sum::<f64>() / all.len() as f64);
        Some(Mean::of(&means.collect::<Vec<_>>()))
    };
    table.push(("average".into(), variants.iter().map(|v| shown(average(v))).collect()));
    (variants, table)
}

/// The record that validation on the training domains selects: the first of the best, as DomainBed does it.
fn selected(file: &Path) -> Result<Map<String, Value>> {
    let text = read(file)?;
    let mut best: Option<(f64, Map<String, Value>)> = None;
    for (i, line) in text.lines().enumerate() {
        let record: Map<String, Value> = serde_json::from_str(line)
            .with_context(|| format!("{}: line {} is no result", file.display(), i + 1))?;
        let test = record.get("args").and_then(|a| a["test_envs"].as_array()).cloned().unwrap_or_default();
        let is_test = |key: &str| test.iter().any(|e| key == format!("env{e}_out_acc"));
        let validation: Vec<f64> = record
            .iter()
            .filter(|(key, _)| key.ends_with("_out_acc") && !is_test(key))
            .filter_map(|(_, v)| v.as_f64())
            .collect();
        let score = validation.iter().sum::<f64>() / validation.len().max(1) as f64;
        if best.as_ref().is_none_or(|(held, _)| score > *held) {
            best = Some((score, record));
        }
    }
    best.map(|(_, record)| record).with_context(|| format!("{}: no results in it", file.display()))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))
}

/// One picture and what it shows.
#[derive(Serialize)]
struct Picture {
    uri: String,
    title: String,
}

/// Writes `report.html` into the folder of a run, from whatever stages are done there; its path.
///
/// # Errors
/// A folder that is no run's; files that are not what a run writes.
pub fn run(dir: &Path) -> Result<PathBuf> {
    let settings_file = dir.join("run.toml");
    if !settings_file.exists() {
        bail!("{}: no run.toml in it: give the --out folder of a `kaleid run`", dir.display());
    }
    let settings = read(&settings_file)?;
    let study = Study::parse(&settings, &settings_file.display().to_string())?;
    let data =
        if study.data == Path::new(super::demo::BUILTIN) { dir.join("data") } else { study.data.clone() };
    let text = |name: &str| -> Result<Option<String>> {
        let file = dir.join(name);
        if file.exists() { read(&file).map(Some) } else { Ok(None) }
    };
    let parsed = |name: &str| format!("{}: not what a run writes", dir.join(name).display());
    let stages: Stages = match text("stages.json")? {
        Some(json) => serde_json::from_str(&json).with_context(|| parsed("stages.json"))?,
        None => Stages::default(),
    };
    let diversity: Option<Diversity> = match text("diversity.json")? {
        Some(json) => Some(serde_json::from_str(&json).with_context(|| parsed("diversity.json"))?),
        None => None,
    };
    let mut jobs: Vec<Job> = vec![];
    for line in text("images/metadata.jsonl")?.unwrap_or_default().lines() {
        jobs.push(serde_json::from_str(line).with_context(|| parsed("images/metadata.jsonl"))?);
    }

    let domains: BTreeSet<&String> = jobs.iter().filter_map(|j| j.domain.as_ref()).collect();
    let classes: BTreeSet<&String> = jobs.iter().filter_map(|j| j.class.as_ref()).collect();
    let mut grid = vec![];
    for class in &classes {
        let mut row = vec![];
        for domain in &domains {
            let of = |j: &&Job| j.domain.as_ref() == Some(*domain) && j.class.as_ref() == Some(*class);
            row.push(match jobs.iter().find(of) {
                Some(job) => Some(picture(&dir.join("images").join(&job.file_name), &job.prompt)?),
                None => None,
            });
        }
        grid.push((class, row));
    }
    let mut nearest = vec![];
    for n in diversity.iter().flat_map(|d| &d.nearest) {
        let prompt = jobs.iter().find(|j| j.file_name == n.generated).map_or("", |j| &j.prompt);
        nearest.push((
            picture(&dir.join("images").join(&n.generated), prompt)?,
            picture(&data.join(&n.original), &n.original)?,
            format!("{:.2}", n.cosine),
        ));
    }
    let rows = table(dir, &study)?;
    let cells: Vec<_> = rows
        .iter()
        .map(|r| {
            let seeds: Vec<String> = r.seeds.iter().map(|a| format!("{:.1}", 100.0 * a)).collect();
            (&r.algorithm, &r.variant, r.all.to_string(), r.unseen.map(|m| m.to_string()), seeds.join(", "))
        })
        .collect();
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let optimum = diversity.as_ref().map(|d| d.optimum.to_string());
    let per_domain: BTreeMap<&String, [String; 4]> = diversity
        .iter()
        .flat_map(|d| &d.domains)
        .map(|(name, d)| {
            let share = |s: Option<f64>| s.map_or("–".into(), percent);
            let counts = [d.originals, d.generated].map(|n| n.to_string());
            let [originals, generated] = counts;
            (name, [originals, generated, share(d.class_agreement), share(d.style_agreement)])
        })
        .collect();
    let order = ["data", "prompts", "images", "score", "training"];
    let seconds: Vec<(&str, String)> = order
        .into_iter()
        .filter_map(|stage| Some((stage, format!("{:.0} s", stages.seconds.get(stage)?))))
        .collect();

    let mut env = Environment::new();
    env.add_template("report.html", include_str!("report.html")).context("report.html")?;
    let shown = json!({
        "title": dir.file_name().unwrap_or_default().to_string_lossy(),
        "test_domain": study.test_domain, "adapter": stages.adapter, "version": stages.version,
        "seconds": seconds, "settings": settings, "images": jobs.len(), "domains": domains, "grid": grid,
        "nearest": nearest, "cells": cells, "optimum": optimum, "per_domain": per_domain,
        "curve": text("diversity.svg")?,
        "form": diversity.as_ref().map(|d| &d.form),
        "clip": diversity.as_ref().map(|d| format!("{}, {} numbers an image", d.clip, d.width)),
        "class_agreement": diversity.as_ref().map(|d| percent(d.class_agreement)),
        "style_agreement": diversity.as_ref().map(|d| percent(d.style_agreement)),
        "findings": findings(&rows),
        "matrix": (study.compare.algorithms.len() > 1).then(|| matrix(&rows, &study)),
    });
    let template = env.get_template("report.html").context("report.html")?;
    let html = template.render(minijinja::value::Serde(&shown));
    let path = dir.join("report.html");
    write_atomic(&path, html.context("report.html")?.as_bytes())?;
    Ok(path)
}

/// What the table says, in sentences: each variant against the originals alone.
pub fn findings(rows: &[Row]) -> Vec<String> {
    let mut lines = vec![];
    for row in rows.iter().filter(|r| r.variant != "o") {
        let Some(o) = rows.iter().find(|o| o.variant == "o" && o.algorithm == row.algorithm) else {
            continue;
        };
        let points = 100.0 * (row.all.mean - o.all.mean);
        let error = 100.0 * row.all.standard_error.hypot(o.all.standard_error);
        let verdict = match (points / error).abs() {
            _ if error == 0.0 => "one seed has no error bar".to_string(),
            ratio if ratio < 2.0 => format!("{ratio:.1} standard errors: seeds could do that"),
            ratio => format!("{ratio:.1} standard errors"),
        };
        lines.push(format!("{}: {} against o: {points:+.1} points ({verdict})", row.algorithm, row.variant));
    }
    lines
}

/// A file as a data URI; PNG, JPEG and WebP as they are.
fn picture(path: &Path, title: &str) -> Result<Picture> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let kind = match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "jpg" | "jpeg" => "jpeg",
        other => other,
    };
    let uri = format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes));
    Ok(Picture { uri, title: title.to_string() })
}
