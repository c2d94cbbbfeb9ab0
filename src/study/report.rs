//! `report.html` of a run: pictures, the diversity curve, the table of variants, times and settings, in one file that loads
//! nothing from elsewhere.

use super::clock::{STAGES, Stages};
use super::config::Study;
use super::results::{Accuracies, averaged, by_class, by_target, chosen, findings, matrix, table};
use super::score::Diversity;
use super::select::{self, Selection};
use super::{demo, files, run_toml};
use crate::data::chosen::{self, LeftOut};
use crate::data::write_atomic;
use crate::paint::picture::Picture;
use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::Environment;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Pictures of images that were selected out.
const MOST_SHOWN: usize = 16;

/// Writes `report.html`, and its tables for other programs (`study/files.rs`), into the folder of a run, from whatever stages are done there;
/// the path of the first.
///
/// # Errors
/// A folder that is no run's; files that are not what a run writes.
pub fn run(dir: &Path) -> Result<PathBuf> {
    let run = Run::open(dir)?;
    let each = table(dir, &run.study)?;
    files::write(dir, &each, &run.study, run.diversity.as_ref())?;
    let path = dir.join("report.html");
    write_atomic(&path, html(&run, &each)?.as_bytes())?;
    Ok(path)
}

/// The report of what is done so far.
///
/// # Errors
/// As [`run`].
pub fn page(dir: &Path) -> Result<String> {
    let run = Run::open(dir)?;
    html(&run, &table(dir, &run.study)?)
}

fn html(run: &Run, each: &[Accuracies]) -> Result<String> {
    let rows = averaged(each);
    let tested = rows.first().map_or_else(String::new, |row| row.target.clone());
    let is_demo = demo::is_builtin(&run.study.data) && demo::is_builtin(&run.study.images.model);
    let table_1 = matrix(&rows, &run.study);
    let published = table_1.1.iter().any(|(_, cells)| cells.iter().any(|cell| cell.ends_with(']')));
    let page = json!({
        "title": run.dir.file_name().unwrap_or_default().to_string_lossy(),
        "tested": tested, "by_target": by_target(each), "by_class": by_class(each), "images": run.images.len(),
        "adapter": run.stages.adapter, "version": run.stages.version,
        "matrix": (published || run.study.compare.algorithms.len() > 1).then_some(table_1), "published": published,
        "cells": rows.iter().map(|r| {
            let seeds: Vec<String> = r.seeds.values().map(|a| format!("{:.1}", 100.0 * a)).collect();
            let [balanced, unseen] = [&r.balanced, &r.unseen].map(|of| r.mean(of).map(|m| m.to_string()));
            (&r.algorithm, r.variant.name(), r.all().to_string(), balanced, unseen, seeds.join(", "))
        }).collect::<Vec<_>>(),
        "findings": findings(&rows).into_iter().chain(chosen(&rows)).collect::<Vec<_>>(),
        "selection": run.selection()?, "domains": run.domains(), "grid": run.grid()?, "nearest": run.nearest()?,
        "curve": run.curve, "panels": run.panels, "diversity": run.diversity.as_ref().map(diversity),
        "seconds": run.seconds(each.iter().map(|row| row.seeds.len()).sum()), "builtin": is_demo,
        "test_style": run.study.prompts.include_test_style || run.study.train.include_test_style,
        "settings": run.settings,
    });
    let mut env = Environment::new();
    env.add_template("report.html", include_str!("report.html")).context("report.html")?;
    let template = env.get_template("report.html").context("report.html")?;
    template.render(minijinja::value::Serde(&page)).context("report.html")
}

/// What a run has written so far.
struct Run<'a> {
    dir: &'a Path,
    /// run.toml, as text and read.
    settings: String,
    study: Study,
    stages: Stages,
    diversity: Option<Diversity>,
    /// diversity.svg.
    curve: Option<String>,
    /// embedding.svg.
    panels: Option<String>,
    /// The generated images.
    images: Vec<Picture>,
    /// What was made of them.
    judged: BTreeMap<String, Selection>,
    /// Those that do not count, with reasons.
    left_out: LeftOut,
}

impl<'a> Run<'a> {
    fn open(dir: &'a Path) -> Result<Run<'a>> {
        let file = run_toml(dir)?;
        let settings = text(&file)?.unwrap_or_default();
        let metadata = dir.join("images/metadata.jsonl");
        let lines = text(&metadata)?.unwrap_or_default();
        Ok(Run {
            dir,
            study: Study::parse(&settings, &file.display().to_string())?,
            settings,
            stages: parsed(&dir.join("stages.json"))?.unwrap_or_default(),
            diversity: parsed(&dir.join("diversity.json"))?,
            curve: text(&dir.join("diversity.svg"))?,
            panels: text(&dir.join("embedding.svg"))?,
            judged: select::of(&dir.join("images"))?,
            left_out: chosen::left_out(&dir.join("images"), &[])?,
            images: lines.lines().map(|line| from_json(&metadata, line)).collect::<Result<_>>()?,
        })
    }

    fn domains(&self) -> BTreeSet<&String> {
        self.images.iter().filter_map(|i| i.domain.as_ref()).collect()
    }

    /// For each class one generated image of each domain, where there is one.
    fn grid(&self) -> Result<Vec<(&String, Vec<Option<Figure>>)>> {
        let (domains, mut rows) = (self.domains(), vec![]);
        for class in self.images.iter().filter_map(|i| i.class.as_ref()).collect::<BTreeSet<_>>() {
            let shown = |domain: &&String| {
                let is = |i: &&Picture| i.domain.as_ref() == Some(*domain) && i.class.as_ref() == Some(class);
                let counts = |i: &&Picture| !self.left_out.contains_key(&i.file_name);
                self.images.iter().filter(is).find(counts).map(|i| self.generated(&i.file_name)).transpose()
            };
            rows.push((class, domains.iter().map(shown).collect::<Result<_>>()?));
        }
        Ok(rows)
    }

    /// A generated image, its prompt as the title.
    fn generated(&self, file_name: &str) -> Result<Figure> {
        let prompt = self.images.iter().find(|i| i.file_name == file_name).map_or("", |i| &i.prompt);
        figure(&self.dir.join("images").join(file_name), prompt)
    }

    /// What was made of the images: a line, and some that a rule is against or a person rejected, with the reasons.
    fn selection(&self) -> Result<Option<(String, Vec<(Figure, String)>)>> {
        if self.judged.is_empty() && self.left_out.is_empty() {
            return Ok(None);
        }
        let mut against: Vec<(&String, String)> = vec![];
        for (name, row) in &self.judged {
            let reasons = row.reasons.join(", ");
            match self.left_out.get(name) {
                Some(why) if *why != reasons => against.push((name, why.clone())),
                Some(_) => against.push((name, format!("dropped: {reasons}"))),
                None if !reasons.is_empty() => against.push((name, format!("flagged: {reasons}"))),
                None => {}
            }
        }
        // From all over the list, which is sorted by domain and class.
        let every = against.len().div_ceil(MOST_SHOWN).max(1);
        let shown = against.into_iter().step_by(every).map(|(name, why)| Ok((self.generated(name)?, why)));
        let shown = shown.collect::<Result<_>>()?;
        let out = self.left_out.len();
        Ok(Some((
            format!("{}; with what people say, {out} do not count", select::summary(&self.judged)),
            shown,
        )))
    }

    /// Generated images, each with its nearest original and their cosine.
    fn nearest(&self) -> Result<Vec<(Figure, Figure, String)>> {
        let data = demo::data(&self.study.data, self.dir);
        let pairs = self.diversity.iter().flat_map(|d| &d.nearest).map(|n| {
            let original = figure(&data.join(&n.original), &n.original)?;
            Ok((self.generated(&n.generated)?, original, format!("{:.2}", n.cosine)))
        });
        pairs.collect()
    }

    /// How long each stage took, and of painting and training each image and each training.
    fn seconds(&self, trainings: usize) -> Vec<(&str, String, String)> {
        let time = |stage| {
            let seconds = *self.stages.seconds.get(stage)?;
            let each = match stage {
                "images" => each(seconds, self.images.len(), "images"),
                "training" => each(seconds, trainings, "trainings"),
                _ => String::new(),
            };
            Some((stage, format!("{seconds:.0} s"), each))
        };
        STAGES.into_iter().filter_map(time).collect()
    }
}

/// `570 images, 0.36 s each`
fn each(seconds: f64, count: usize, what: &str) -> String {
    if count == 0 { String::new() } else { format!("{count} {what}, {:.2} s each", seconds / count as f64) }
}

/// What the page says about diversity.
fn diversity(d: &Diversity) -> Value {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    json!({
        "form": d.form, "clip": format!("{}, {} numbers per image", d.clip, d.width),
        "optimum": d.curve.optimum.to_string(), "interval": d.curve.interval.map(|s| format!("{:.1}", 100.0 * s)),
        "r2": format!("{:.3}", d.curve.r2), "vendi": d.vendi.map(|v| format!("{v:.1}")), "plane": d.plane,
        "class_agreement": percent(d.class_agreement), "style_agreement": percent(d.style_agreement),
        "head": d.head(), "domains": d.lines(),
    })
}

/// A text file; none where there is none.
fn text(file: &Path) -> Result<Option<String>> {
    let read = || std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()));
    file.exists().then(read).transpose()
}

/// A JSON file; none where there is none.
fn parsed<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    text(file)?.map(|json| from_json(file, &json)).transpose()
}

fn from_json<T: DeserializeOwned>(file: &Path, json: &str) -> Result<T> {
    serde_json::from_str(json).with_context(|| format!("{}: not what a run writes", file.display()))
}

/// One picture and what it shows.
#[derive(Serialize)]
struct Figure {
    uri: String,
    title: String,
}

/// A file as a data URI; PNG, JPEG and WebP as they are.
fn figure(path: &Path, title: &str) -> Result<Figure> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let kind = match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "jpg" | "jpeg" => "jpeg",
        other => other,
    };
    let uri = format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes));
    Ok(Figure { uri, title: title.to_string() })
}
