//! Which of a folder's painted images count: those that neither a selection nor a person left out.
//!
//! `kaleid select` says in `metadata.jsonl` what it makes of each image: `"selection": {"action": "drop", "reasons": [..], ..}`. A person's
//! word, a line of `review.jsonl`, goes before that; of several about one image the last holds.

use super::{text, write_atomic};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The rows of a folder's images.
pub const METADATA: &str = "metadata.jsonl";
/// What people said of them.
pub const REVIEW: &str = "review.jsonl";
/// The key of a row of metadata that holds the selection.
pub const SELECTION: &str = "selection";

/// What becomes of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It counts.
    Keep,
    /// It counts, and people should look at it.
    #[default]
    Flag,
    /// It does not count.
    Drop,
    /// It is painted again with the next seed.
    Regenerate,
}

/// A line of `review.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Which image, below the folder.
    pub file_name: String,
    /// Whether it counts; none takes back what was said.
    pub verdict: Option<Verdict>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a person says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It counts, whatever a selection says.
    Keep,
    /// It does not.
    Reject,
}

/// Images that do not count, by their names below the folder, each with the reason.
pub type LeftOut = BTreeMap<String, String>;

/// What is read of a row of metadata.
#[derive(Deserialize)]
struct Row {
    file_name: Option<String>,
    /// The original that it was painted from, DOMAIN/CLASS/image.
    init: Option<String>,
    /// The original that its prompt describes, in the same way.
    described: Option<String>,
    selection: Option<Selected>,
}

#[derive(Deserialize)]
struct Selected {
    action: Action,
    #[serde(default)]
    reasons: Vec<String>,
}

/// Those of the folder `images` that were selected out or rejected, and those that were painted from, or by the description of, an original
/// of one of the domains `unseen`.
///
/// # Errors
/// Files that hold something else; file and line are named.
pub fn left_out(images: &Path, unseen: &[String]) -> Result<LeftOut> {
    let rows = text::rows::<Row>(&images.join(METADATA))?;
    let dropped = |row: &Row| {
        let (name, selected) = (row.file_name.clone()?, row.selection.as_ref()?);
        (selected.action == Action::Drop).then(|| (name, selected.reasons.join(", ")))
    };
    let mut left: LeftOut = rows.iter().filter_map(dropped).collect();
    for (name, review) in reviews(images)? {
        match review.verdict {
            Some(Verdict::Reject) => drop(left.insert(name, format!("rejected: {}", review.reason))),
            Some(Verdict::Keep) => drop(left.remove(&name)),
            None => {}
        };
    }
    // Not even a person may take these.
    left.extend(from_domains(rows, unseen));
    Ok(left)
}

/// Those that were painted from, or by the description of, an original of one of these domains.
///
/// # Errors
/// As [`left_out`].
pub fn painted_from(images: &Path, domains: &[String]) -> Result<LeftOut> {
    Ok(from_domains(text::rows(&images.join(METADATA))?, domains))
}

fn from_domains(rows: Vec<Row>, domains: &[String]) -> LeftOut {
    let from = |row: Row| {
        let origins = [row.init, row.described].into_iter().flatten();
        let mut unseen =
            origins.filter(|o| o.split_once('/').is_some_and(|o| domains.iter().any(|d| d == o.0)));
        Some((row.file_name?, format!("painted from {}", unseen.next()?)))
    };
    rows.into_iter().filter_map(from).collect()
}

/// What people said last of each image of the folder `images`.
///
/// # Errors
/// As [`left_out`].
pub fn reviews(images: &Path) -> Result<BTreeMap<String, Review>> {
    let all = text::rows::<Review>(&images.join(REVIEW))?;
    Ok(all.into_iter().map(|review| (review.file_name.clone(), review)).collect())
}

/// Adds a line to the folder's `review.jsonl`.
///
/// # Errors
/// A file that cannot be written.
pub fn review(images: &Path, review: &Review) -> Result<()> {
    let file = images.join(REVIEW);
    let line = serde_json::to_string(review)? + "\n";
    let open = std::fs::OpenOptions::new().create(true).append(true).open(&file);
    let written = open.and_then(|mut open| open.write_all(line.as_bytes()).and_then(|()| open.sync_data()));
    written.with_context(|| format!("{}: cannot write", file.display()))
}

/// The rows of metadata of the folder `images`, by image.
///
/// # Errors
/// As [`left_out`].
pub fn rows(images: &Path) -> Result<BTreeMap<String, Map<String, Value>>> {
    let all = text::rows::<Map<String, Value>>(&images.join(METADATA))?;
    let named = |row: Map<String, Value>| Some((row.get("file_name")?.as_str()?.to_string(), row));
    Ok(all.into_iter().filter_map(named).collect())
}

/// The selection of each image of the folder `images` that has one.
///
/// # Errors
/// As [`left_out`].
pub fn selections(images: &Path) -> Result<BTreeMap<String, Value>> {
    let selected = |(name, mut row): (String, Map<String, Value>)| Some((name, row.remove(SELECTION)?));
    Ok(rows(images)?.into_iter().filter_map(selected).collect())
}

/// Writes what was selected into the rows of the folder's metadata; an image without a row gets one.
///
/// # Errors
/// A file that holds something else or cannot be written.
pub fn write_selections(images: &Path, selections: &BTreeMap<String, Value>) -> Result<()> {
    let (file, mut left) = (images.join(METADATA), selections.clone());
    let mut rows = text::rows::<Map<String, Value>>(&file)?;
    for row in &mut rows {
        let name = row.get("file_name").and_then(Value::as_str);
        if let Some(selection) = name.and_then(|name| left.remove(name)) {
            row.insert(SELECTION.into(), selection);
        }
    }
    rows.extend(left.into_iter().map(|(name, selection)| {
        Map::from_iter([("file_name".to_string(), name.into()), (SELECTION.to_string(), selection)])
    }));
    let text: String = rows.into_iter().map(|row| Value::Object(row).to_string() + "\n").collect();
    write_atomic(file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FROM: &str = "{\"file_name\": \"e.png\", \"init\": \"photo/dog/1.jpg\"}\n";

    #[test]
    fn a_person_goes_before_the_selection_and_the_last_word_holds() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path();
        assert_eq!(left_out(images, &[]).unwrap(), LeftOut::new());
        let row = |name: &str, action: &str| {
            format!(
                "{{\"file_name\": \"{name}\", \"selection\": {{\"action\": \"{action}\", \"reasons\": [\"class\"]}}}}\n"
            )
        };
        let rows = [row("a.png", "drop"), row("b.png", "drop"), row("c.png", "flag"), row("d.png", "keep")];
        std::fs::write(images.join(METADATA), rows.concat() + "{\"other\": 1}\n" + FROM).unwrap();
        let names = |left: LeftOut| left.into_keys().collect::<Vec<_>>();
        assert_eq!(names(left_out(images, &[]).unwrap()), ["a.png", "b.png"]);
        let say = |name: &str, verdict| {
            let reason = String::new();
            review(images, &Review { file_name: name.into(), verdict, reason }).unwrap();
        };
        say("b.png", Some(Verdict::Keep));
        say("c.png", Some(Verdict::Reject));
        say("d.png", Some(Verdict::Reject));
        assert_eq!(names(left_out(images, &[]).unwrap()), ["a.png", "c.png", "d.png"]);
        say("d.png", None);
        assert_eq!(names(left_out(images, &[]).unwrap()), ["a.png", "c.png"]);
        let from_b = left_out(images, &["photo".to_string()]).unwrap();
        assert_eq!(from_b["e.png"], "painted from photo/dog/1.jpg");
        let chosen = json!({"action": "drop", "reasons": []});
        write_selections(
            images,
            &[("d.png", &chosen), ("new.png", &chosen)].map(|(n, c)| (n.into(), c.clone())).into(),
        )
        .unwrap();
        assert_eq!(names(left_out(images, &[]).unwrap()), ["a.png", "c.png", "d.png", "new.png"]);
        assert_eq!(selections(images).unwrap().len(), 5);
        std::fs::write(images.join(REVIEW), "{\"file_name\": \"a.png\", \"verdict\": \"maybe\"}\n").unwrap();
        let error = format!("{:#}", left_out(images, &[]).unwrap_err());
        assert!(error.contains("review.jsonl, line 1: unknown variant `maybe`"), "{error}");
    }
}
