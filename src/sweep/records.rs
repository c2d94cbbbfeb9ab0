//! The results of a sweep: `results.jsonl` of every job's folder, as DomainBed and `kaleid train` write them.

use super::Sweep;
use crate::data::known;
use crate::data::text::{self, whole};
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// More domains than any data set has: a larger number is a damaged one.
const MOST_DOMAINS: u64 = 1000;

/// The evaluation of one run at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which split.
    pub trial_seed: u64,
    /// DomainBed's name of the data set.
    pub dataset: String,
    /// DomainBed's name.
    pub algorithm: String,
    /// Which generated images joined: o, q, d or qd.
    pub variant: String,
    /// Which draw of the hyper-parameters.
    pub hparams_seed: u64,
    /// Numbers of the domains that were only tested on.
    pub test_envs: Vec<usize>,
    /// The last update before the evaluation, counted from 0.
    pub step: u64,
    /// Accuracy on the large part of each environment, and on the small one.
    pub accuracy: [Vec<Option<f64>>; 2],
    /// Accuracy on all images of the test domains, as `kaleid train` records it; absent in DomainBed's own records.
    pub test: Option<f64>,
    /// The same over the concepts that were kept from training.
    pub unseen: Option<f64>,
    /// Mean over classes of the accuracy on each, over all images of the test domains; absent in DomainBed's records, as the next two.
    pub balanced: Option<f64>,
    /// The same on the large part of each test domain, by environment.
    pub balanced_by_env: BTreeMap<usize, f64>,
    /// The accuracy on each class, by name, over all images of the test domains.
    pub classes: BTreeMap<String, f64>,
    /// The hyper-parameters.
    pub hparams: Map<String, Value>,
    /// Name of the run's folder.
    pub folder: String,
}

/// The records of a sweep, and the domains of its data sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// In order of folder and line.
    pub all: Vec<Record>,
    /// Short names of the domains of each data set.
    pub domains: BTreeMap<String, Vec<String>>,
    /// A line for each thing that is wrong with the files.
    pub warnings: Vec<String>,
}

impl Records {
    /// Reads `results.jsonl` of every folder in `folder`. Lines that are no records are left out, with a warning.
    ///
    /// # Errors
    /// No such folder; a file that cannot be read; no records at all.
    pub fn read(folder: &Path) -> Result<Records> {
        let list = std::fs::read_dir(folder);
        let list = list.with_context(|| format!("{}: cannot list the folder", folder.display()))?;
        let mut files: Vec<_> = list.filter_map(|e| Some(e.ok()?.path().join("results.jsonl"))).collect();
        files.retain(|file| file.exists());
        files.sort();
        let mut records = Records::default();
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| format!("{}: cannot read", file.display()))?;
            // One damaged line costs itself, not the file.
            let readable = String::from_utf8_lossy(&bytes).into_owned().into_bytes();
            match text::decode(&file.display().to_string(), readable) {
                Ok(text) => records.add(&file, &text),
                Err(error) => records.warnings.push(format!("{error}; it is left out")),
            }
        }
        if records.all.is_empty() {
            records.warnings.push(format!("{}: no results here yet", folder.display()));
        }
        let plan = Sweep::open(folder).ok();
        for record in &records.all {
            let name = &record.dataset;
            if records.domains.contains_key(name) {
                continue;
            }
            let codes = known::named(name).map(|k| k.codes.iter().map(|c| c.to_string()).collect());
            let planned = plan.iter().flat_map(|p| &p.datasets).find(|d| d.0 == *name).map(|d| d.1.clone());
            // Without a plan: every domain that some run was tested on.
            let of = |r: &Record| if r.dataset == *name { r.test_envs.iter().max().copied() } else { None };
            let seen = || {
                let last = records.all.iter().filter_map(of).max().unwrap_or(0);
                (0..=last).map(|e| format!("env{e}")).collect()
            };
            records.domains.insert(name.clone(), codes.or(planned).unwrap_or_else(seen));
        }
        Ok(records)
    }

    fn add(&mut self, file: &Path, text: &str) {
        let (mut seen, mut twice) = (vec![], 0);
        let lines: Vec<_> = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
        for &(i, line) in &lines {
            match record(file, line) {
                Some(record) => {
                    let key = (record.step, record.hparams_seed, record.trial_seed, record.test_envs.clone());
                    twice += usize::from(seen.contains(&key));
                    seen.push(key);
                    self.all.push(record);
                }
                None => {
                    let torn = i + 1 == text.lines().count() && !text.ends_with('\n');
                    let what = if torn { "the line was cut" } else { "no result of a training" };
                    self.warnings.push(format!("{}, line {}: {what}; it is left out", file.display(), i + 1));
                }
            }
        }
        if twice > 0 {
            self.warnings.push(format!(
                "{}: {twice} results are there twice (two runs in one folder?); leave-one-domain-out validation skips them",
                file.display()
            ));
        }
    }

    /// Number of the original domains of a data set.
    pub fn originals(&self, dataset: &str) -> usize {
        self.domains.get(dataset).map_or(0, Vec::len)
    }
}

/// A line of the results.jsonl at `file`; none, if it is not a whole one.
pub fn record(file: &Path, line: &str) -> Option<Record> {
    let row: Map<String, Value> = text::json(line).ok()?;
    let args = row.get("args")?;
    let text = |name: &str| args[name].as_str().map(str::to_string);
    let env = |e: &Value| whole(e).filter(|&e| e < MOST_DOMAINS).map(|e| e as usize);
    let envs = args["test_envs"].as_array()?.iter().map(env);
    let part = |part: &str| -> Vec<Option<f64>> {
        let count = (0..)
            .take_while(|e| ["in", "out"].iter().any(|part| row.contains_key(&format!("env{e}_{part}_acc"))));
        count.map(|e| row.get(&format!("env{e}_{part}_acc"))?.as_f64()).collect()
    };
    Some(Record {
        trial_seed: whole(&args["trial_seed"])?,
        dataset: text("dataset")?,
        algorithm: text("algorithm")?,
        variant: text("variant").unwrap_or("o".into()),
        hparams_seed: whole(&args["hparams_seed"])?,
        test_envs: envs.collect::<Option<_>>()?,
        step: whole(row.get("step")?)?,
        accuracy: [part("in"), part("out")],
        test: row.get("test_acc").and_then(Value::as_f64),
        unseen: row.get("test_unseen_acc").and_then(Value::as_f64),
        balanced: row.get("test_balanced_acc").and_then(Value::as_f64),
        classes: row
            .get("test_class_acc")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(class, accuracy)| Some((class.clone(), accuracy.as_f64()?)))
            .collect(),
        balanced_by_env: (0..row.len())
            .filter_map(|e| Some((e, row.get(&format!("env{e}_in_balanced_acc"))?.as_f64()?)))
            .collect(),
        hparams: row.get("hparams")?.as_object()?.clone(),
        folder: file.parent()?.file_name()?.to_string_lossy().into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_are_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Records::read(dir.path()).unwrap().warnings.len(), 1);
        let good = r#"{"args": {"algorithm": "ERM", "dataset": "toy", "hparams_seed": 0, "test_envs": [1], "trial_seed": 0}, "env0_in_acc": 1.0, "env0_out_acc": 0.5, "env1_in_acc": 0.25, "env1_out_acc": 0.75, "hparams": {}, "loss": NaN, "step": 3}"#;
        let text = format!("{good}\nnonsense\n{good}\n{}", &good[..50]);
        std::fs::create_dir(dir.path().join("job")).unwrap();
        std::fs::write(dir.path().join("job/results.jsonl"), text).unwrap();
        let records = Records::read(dir.path()).unwrap();
        assert_eq!(records.all.len(), 2);
        assert_eq!(records.all[0].accuracy, [vec![Some(1.0), Some(0.25)], vec![Some(0.5), Some(0.75)]]);
        assert_eq!(records.domains["toy"], ["env0", "env1"]);
        let says = ["line 2: no result", "line 4: the line was cut", "1 results are there twice"];
        assert_eq!(records.warnings.len(), says.len());
        for (warning, part) in records.warnings.iter().zip(says) {
            assert!(warning.contains(part), "{warning}");
        }
    }
}
