//! What the page shows of a run's folder, and what it changes there.

use crate::data::chosen::{self, Review, Verdict};
use crate::data::{stays_below, text, write_atomic};
use crate::progress;
use crate::study::SETS;
use crate::study::clock::{STAGES, Stages};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Rows, and images, that are sent at once.
const PAGE: usize = 60;
const NEWEST: usize = 12;
/// Points of a loss curve.
const POINTS: usize = 120;

/// What goes on: stages with their seconds, what runs and how fast, trainings with their losses, the newest images.
///
/// # Errors
/// Files that are not what a run writes.
pub fn state(dir: &Path) -> Result<Value> {
    let watched = progress::watched(dir);
    let seconds = std::fs::read(dir.join("stages.json")).ok();
    let stages: Stages = seconds.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let spent = |name: &&str| stages.seconds.get(*name).map(|seconds| (name.to_string(), seconds.round()));
    let mut newest: Vec<(SystemTime, &str, String)> = vec![];
    let mut sets = vec![];
    for set in SETS {
        let files = painted(&dir.join(set))?;
        if files.is_empty() {
            continue;
        }
        sets.push(json!({"set": set, "images": files.len()}));
        let dated = |name: String| {
            Some((std::fs::metadata(dir.join(set).join(&name)).ok()?.modified().ok()?, set, name))
        };
        newest.extend(files.into_iter().filter_map(dated));
    }
    newest.sort_by(|a, b| b.cmp(a));
    newest.truncate(NEWEST);
    Ok(json!({
        "title": dir.canonicalize().unwrap_or_default().file_name().unwrap_or_default().to_string_lossy(),
        "adapter": stages.adapter,
        "running": watched.is_some(), "paused": progress::is_paused(dir),
        "active": watched.map_or_else(Vec::new, |w| w.active),
        "stages": STAGES.iter().filter_map(spent).collect::<Vec<_>>(),
        "prompts": dir.join("prompts.jsonl").exists(), "editable": may_edit(dir, sets.is_empty()),
        "sets": sets,
        "newest": newest.into_iter().map(|(_, set, name)| json!({"set": set, "name": name})).collect::<Vec<_>>(),
        "trainings": trainings(&dir.join("train"))?,
    }))
}

/// Every training of a folder, the one that was written last first, with its losses by step and the last accuracies.
fn trainings(folder: &Path) -> Result<Vec<Value>> {
    let mut found: Vec<(SystemTime, Value)> = vec![];
    let mut left = vec![folder.to_path_buf()];
    while let Some(place) = left.pop() {
        left.extend(entries(&place).into_iter().filter(|path| path.is_dir()));
        let file = place.join("metrics.jsonl");
        let Ok(written) = std::fs::metadata(&file).and_then(|m| m.modified()) else { continue };
        // The last row may be half-written.
        let read = text::read(&file)?;
        let rows: Vec<Map<String, Value>> = read.lines().filter_map(|line| text::json(line).ok()).collect();
        let loss = |row: &Map<String, Value>| Some([row.get("step")?.as_f64()?, row.get("loss")?.as_f64()?]);
        let losses: Vec<[f64; 2]> = rows.iter().filter_map(loss).collect();
        let every = losses.len().div_ceil(POINTS).max(1);
        let accuracies: BTreeMap<&String, &Value> = rows
            .iter()
            .flatten()
            .filter(|(name, _)| name.starts_with("test") && name.ends_with("acc"))
            .collect();
        found.push((
            written,
            json!({
                "name": place.strip_prefix(folder).unwrap_or(&place).display().to_string().replace('\\', "/"),
                "done": place.join("done").exists(), "accuracies": accuracies,
                "losses": losses.iter().step_by(every).collect::<Vec<_>>(),
            }),
        ));
    }
    found.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
    Ok(found.into_iter().map(|(_, training)| training).collect())
}

/// Images of a set with what is known of them: all of them, or (`show`) those that are flagged, dropped, rejected, kept or not judged by a
/// person.
///
/// # Errors
/// A set that is none; files that are not what a run writes.
pub fn images(dir: &Path, set: &str, show: &str, from: usize) -> Result<Value> {
    let folder = set_folder(dir, set)?;
    let (rows, reviews) = (chosen::rows(&folder)?, chosen::reviews(&folder)?);
    let prompts = prompt_rows(dir)?;
    let prompts: BTreeMap<&str, &Value> = prompts
        .iter()
        .filter_map(|row| Some((row.get("file_name")?.as_str()?, row.get("prompt")?)))
        .collect();
    let mut all = vec![];
    for name in painted(&folder)? {
        let (row, review) = (rows.get(&name), reviews.get(&name));
        let selection = row.and_then(|row| row.get("selection")).unwrap_or(&Value::Null);
        let verdict = review.and_then(|review| review.verdict);
        let wanted = match show {
            "" | "all" => true,
            "unjudged" => verdict.is_none(),
            "keep" => verdict == Some(Verdict::Keep),
            "reject" => verdict == Some(Verdict::Reject),
            action => selection["action"] == action,
        };
        if wanted {
            let prompt =
                row.and_then(|row| row.get("prompt")).or_else(|| prompts.get(name.as_str()).copied());
            all.push(json!({
                "name": name, "prompt": prompt, "selection": selection, "verdict": verdict,
                "reason": review.map(|review| &review.reason),
            }));
        }
    }
    Ok(
        json!({"total": all.len(), "page": PAGE, "rows": all.into_iter().skip(from).take(PAGE).collect::<Vec<_>>()}),
    )
}

/// The file of a painted image.
///
/// # Errors
/// A name that leads anywhere else.
pub fn image(dir: &Path, set: &str, name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if !stays_below(path) || path.extension().is_none_or(|e| e != "png") {
        bail!("{name:?} is no image of the run");
    }
    let folder = set_folder(dir, set)?;
    let file = folder.join(path);
    // Nor by a link.
    let leads_to = file.canonicalize().with_context(|| format!("{name:?}: no such image"))?;
    if !leads_to.starts_with(folder.canonicalize()?) {
        bail!("{name:?} is no image of the run");
    }
    Ok(file)
}

/// Adds what a person says of an image to the set's `review.jsonl`.
///
/// # Errors
/// An image that is not there; a file that cannot be written.
pub fn review(dir: &Path, set: &str, review: &Review) -> Result<()> {
    image(dir, set, &review.file_name)?;
    chosen::review(&set_folder(dir, set)?, review)
}

/// Prompts from the one numbered `from` on, the new domains, and whether they may be changed.
///
/// # Errors
/// Files that are not what a run writes.
pub fn prompts(dir: &Path, from: usize) -> Result<Value> {
    let (rows, domains) = (prompt_rows(dir)?, domains(dir)?);
    let total = rows.len();
    let rows: Vec<_> = rows.into_iter().skip(from).take(PAGE).collect();
    Ok(
        json!({"total": total, "page": PAGE, "rows": rows, "domains": domains["new"], "editable": is_editable(dir)?}),
    )
}

/// Gives a picture another prompt.
///
/// # Errors
/// Images that are painted already; a picture that is none; a prompt that cannot be one.
pub fn edit_prompt(dir: &Path, file_name: &str, prompt: &str) -> Result<()> {
    if prompt.trim().is_empty() || prompt.contains('\0') {
        bail!("a prompt needs words");
    }
    let mut rows = rows_to_change(dir)?;
    let row = rows.iter_mut().find(|row| row.get("file_name").is_some_and(|name| name == file_name));
    row.with_context(|| format!("no prompt for {file_name:?}"))?
        .insert("prompt".into(), prompt.trim().into());
    write_prompts(dir, &rows)
}

/// Removes a new domain and its prompts.
///
/// # Errors
/// Images that are painted already; a domain that is not a new one.
pub fn remove_domain(dir: &Path, folder: &str) -> Result<()> {
    let mut rows = rows_to_change(dir)?;
    let mut domains = domains(dir)?;
    let new = domains["new"].as_array_mut().context("domains.json: no new domains")?;
    let before = new.len();
    new.retain(|domain| domain["folder"] != folder);
    if new.len() == before {
        bail!("{folder:?} is not one of the new domains");
    }
    rows.retain(|row| row.get("domain").is_none_or(|domain| domain != folder));
    if rows.is_empty() {
        bail!("{folder:?} is the last domain: nothing would be left to paint");
    }
    write_prompts(dir, &rows)?;
    write_atomic(dir.join("domains.json"), format!("{domains:#}\n").as_bytes())
}

fn rows_to_change(dir: &Path) -> Result<Vec<Map<String, Value>>> {
    if !is_editable(dir)? {
        bail!("images are painted from these prompts already");
    }
    prompt_rows(dir)
}

fn write_prompts(dir: &Path, rows: &[Map<String, Value>]) -> Result<()> {
    let lines: String = rows.iter().map(|row| Value::Object(row.clone()).to_string() + "\n").collect();
    write_atomic(dir.join("prompts.jsonl"), lines.as_bytes())
}

fn is_editable(dir: &Path) -> Result<bool> {
    let painted =
        SETS.iter().try_fold(0, |n, set| Ok::<_, anyhow::Error>(n + painted(&dir.join(set))?.len()))?;
    Ok(may_edit(dir, painted == 0))
}

/// Prompts may be changed while none was painted, by nobody who paints now.
fn may_edit(dir: &Path, none_is_painted: bool) -> bool {
    let waits = progress::watched(dir).is_none() || progress::is_paused(dir);
    waits && none_is_painted && dir.join("prompts.jsonl").exists()
}

fn prompt_rows(dir: &Path) -> Result<Vec<Map<String, Value>>> {
    text::rows(&dir.join("prompts.jsonl"))
}

fn domains(dir: &Path) -> Result<Value> {
    let file = dir.join("domains.json");
    if !file.exists() {
        return Ok(json!({"new": []}));
    }
    text::json(&text::read(&file)?).with_context(|| file.display().to_string())
}

fn set_folder(dir: &Path, set: &str) -> Result<PathBuf> {
    match SETS.contains(&set) {
        true => Ok(dir.join(set)),
        false => bail!("no set {set:?} of images"),
    }
}

/// The images of a set, DOMAIN/CLASS/image, sorted.
fn painted(folder: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    for class in entries(folder).iter().flat_map(|domain| entries(domain)) {
        let images = entries(&class).into_iter().filter(|path| path.extension().is_some_and(|e| e == "png"));
        names.extend(images.map(|path| crate::data::below(&path, folder)));
    }
    names.sort();
    Ok(names)
}

/// What lies in a folder; nothing if it is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}
