//! The folder of a run: `results.jsonl`, `out.txt`, `err.txt` and `done` as DomainBed writes them, `train.json` (what the run depends
//! on), `checkpoint.safetensors` while it is under way, and `model.safetensors` at its end.

use super::schedule::Schedule;
use super::swad::{self, Swad};
use super::task::Task;
use crate::core::Store;
use crate::data::checkpoint::{Checkpoint, TensorData, save};
use crate::data::{lock, make_folder, python, write_atomic};
use crate::domainbed::network::Featurizer;
use crate::domainbed::predictor::Predictor;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// The folder of a run.
pub struct Folder<'a> {
    path: &'a Path,
    /// What train.json says.
    described: Value,
    /// Held until the run ends: two processes would write over each other's checkpoints.
    _lock: File,
}

const CHECKPOINT: &str = "checkpoint.safetensors";
/// The checkpoint's metadata that says where to resume.
const NEXT_STEP: &str = "next_step";

impl<'a> Folder<'a> {
    /// Claims the folder for the run that `described` tells of.
    ///
    /// # Errors
    /// A folder that another process trains in or that holds another run; one that cannot be written.
    pub fn open(path: &'a Path, described: Value) -> Result<Self> {
        make_folder(path)?;
        // DomainBed's file for errors, which stays empty, and is never replaced as the others are: it carries the lock.
        let log = path.join("err.txt");
        let lock = File::options().create(true).append(true).open(&log);
        let lock = lock
            .with_context(|| format!("{}: cannot write (is the disk full or read-only?)", log.display()))?;
        lock::hold(path, &lock)?;

        let file = path.join("train.json");
        let text = serde_json::to_string_pretty(&described)? + "\n";
        let held = match std::fs::read(&file) {
            Ok(held) => Some(held),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(|| format!("{}: cannot read", file.display())),
        };
        let worth = ["results.jsonl", CHECKPOINT, "model.safetensors", "done"];
        match held {
            Some(held) if held == text.as_bytes() => {}
            // A command that failed before its first checkpoint leaves nothing to lose.
            _ if !worth.iter().any(|f| path.join(f).exists()) => write_atomic(&file, text.as_bytes())?,
            Some(held) => {
                let held: Value = serde_json::from_slice(&held).unwrap_or_default();
                bail!(
                    "{}: holds another run ({}): choose another --out, or delete it",
                    path.display(),
                    difference(&held, &described)
                );
            }
            None => bail!("{}: holds results of something else: choose another --out", path.display()),
        }
        Ok(Folder { path, described, _lock: lock })
    }

    /// Whether the run is over.
    pub fn is_done(&self) -> bool {
        self.path.join("done").exists()
    }

    /// The rows of results.jsonl for the steps before `end`.
    ///
    /// # Errors
    /// Rows that are missing or not whole: files may be lost or cut, by hand or by a crash.
    pub fn records(&self, end: usize, schedule: &Schedule) -> Result<Vec<Map<String, Value>>> {
        let file = self.path.join("results.jsonl");
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => vec![],
            Err(e) => return Err(e).with_context(|| format!("{}: cannot read", file.display())),
        };
        let step = |r: &Map<String, Value>| r.get("step").and_then(Value::as_u64).map(|s| s as usize);
        let mut records: Vec<Map<String, Value>> = vec![];
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let row = serde_json::from_slice(line).map_err(|_| {
                anyhow!("{}, line {}: not a whole result; {}", file.display(), i + 1, self.anew())
            })?;
            records.push(row);
        }
        records.retain(|r| step(r).is_some_and(|s| s < end));
        let due: Vec<usize> = (0..end).filter(|&s| schedule.result_due(s)).collect();
        if let Some((_, missing)) =
            due.iter().enumerate().find(|(i, s)| records.get(*i).and_then(step) != Some(**s))
        {
            bail!("{}: the result of step {missing} is missing; {}", file.display(), self.anew());
        }
        if records.len() > due.len() {
            bail!("{}: more results than steps; {}", file.display(), self.anew());
        }
        Ok(records)
    }

    /// Notes the images that are left out, or fails when a run that is under way had left out others.
    pub fn check_skipped(&self, names: &str) -> Result<()> {
        let file = self.path.join("skipped.txt");
        if !self.path.join(CHECKPOINT).exists() {
            let _ = std::fs::remove_file(&file);
            return if names.is_empty() { Ok(()) } else { write_atomic(file, names.as_bytes()) };
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != names {
            bail!("{}: other images can be read than when this run began; {}", file.display(), self.anew());
        }
        Ok(())
    }

    /// What to do about files that do not belong together.
    fn anew(&self) -> String {
        format!("delete {} to train anew", self.path.display())
    }

    /// What is said of a checkpoint that is no use.
    pub fn cannot_resume(&self) -> String {
        let file = self.path.join(CHECKPOINT);
        format!("{}: cannot resume from this checkpoint; delete it to train anew", file.display())
    }

    /// Brings back every tensor of the last checkpoint: the next step, of `steps`, and SWAD's state.
    ///
    /// # Errors
    /// A checkpoint that cannot be read or lacks something.
    pub fn restore(&self, store: &mut Store, steps: usize) -> Result<(usize, Swad)> {
        let file = self.path.join(CHECKPOINT);
        if !file.exists() {
            return Ok((0, Swad::default()));
        }
        let mut restored = || -> Result<(usize, Swad)> {
            let checkpoint = Checkpoint::open(&file)?;
            let mut kept = BTreeMap::new();
            for name in checkpoint.names() {
                let (shape, data) = checkpoint.tensor(name)?;
                match name.starts_with(swad::PREFIX) {
                    true => drop(kept.insert(name.to_string(), data)),
                    false => store.write(name, &shape, &data)?,
                }
            }
            let metadata = |key: &str| checkpoint.metadata().get(key);
            let step = metadata(NEXT_STEP).and_then(|text| text.parse().ok());
            let step =
                step.filter(|step| (1..=steps).contains(step)).context("it does not say at which step")?;
            Ok((step, Swad::restore(&kept, metadata(swad::STATE).map_or("", |text| text))?))
        };
        restored().with_context(|| self.cannot_resume())
    }

    /// Writes everything that the run needs to resume before `next_step`.
    ///
    /// # Errors
    /// A number that is not finite, so that the last good checkpoint stays; a disk that is full.
    pub fn save(&self, store: &Store, next_step: usize, swad: &Swad) -> Result<()> {
        let (averages, state) = swad.state();
        let flat = |(name, data): (String, Vec<f32>)| (name, TensorData::f32(&[data.len()], &data));
        let mut tensors: BTreeMap<_, _> = averages.into_iter().map(flat).collect();
        for name in store.names() {
            let (shape, data) = store.read(&name)?;
            if data.iter().any(|v| !v.is_finite()) {
                let step = next_step - 1;
                bail!("after step {step}: {name} is not finite: training diverged; lower the learning rate");
            }
            tensors.insert(name, TensorData::f32(&shape, &data));
        }
        let metadata =
            BTreeMap::from([(NEXT_STEP.into(), next_step.to_string()), (swad::STATE.into(), state)]);
        save(self.path.join(CHECKPOINT), &tensors, &metadata)
    }

    /// results.jsonl and out.txt, whole.
    pub fn write_records(&self, records: &[Map<String, Value>]) -> Result<()> {
        let lines: String = records.iter().map(|r| python::json(r) + "\n").collect();
        write_atomic(self.path.join("results.jsonl"), lines.as_bytes())?;
        write_atomic(self.path.join("out.txt"), log(records, &self.described).as_bytes())
    }

    /// What predicts, and `done`, after which there is nothing to resume.
    ///
    /// # Errors
    /// A device that failed; a disk that is full.
    pub fn write_model(&self, store: &Store, predictor: &Predictor, task: &Task) -> Result<()> {
        let (network, classes) = (&task.network, &task.dataset.classes);
        let mut tensors = BTreeMap::new();
        for (name, held) in predictor.tensors() {
            let (shape, data) = store.read(held)?;
            tensors.insert(name.to_string(), TensorData::f32(&shape, &data));
        }
        let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        metadata.insert("classes".into(), classes.join(","));
        if let Featurizer::ResNet(c, _) = &network.featurizer {
            let config = json!({"layers": c.layers, "bottleneck": c.bottleneck, "width": c.width,
                "stem_kernel": c.stem_kernel, "stem_stride": c.stem_stride, "stem_pool": c.stem_pool,
                "num_classes": network.classes});
            metadata.insert("config".into(), config.to_string());
        }
        save(self.path.join("model.safetensors"), &tensors, &metadata)?;
        write_atomic(self.path.join("done"), b"done")?;
        let _ = std::fs::remove_file(self.path.join(CHECKPOINT));
        Ok(())
    }
}

/// The first argument in which two descriptions differ.
fn difference(held: &Value, wanted: &Value) -> String {
    for group in ["args", "hparams"] {
        let Some(wanted) = wanted[group].as_object() else { continue };
        if let Some((key, value)) = wanted.iter().find(|(key, value)| held[group][*key] != **value) {
            return format!("{key} {}, not {value}", held[group][key]);
        }
    }
    "other images".into()
}

/// out.txt as DomainBed prints it: arguments, hyper-parameters, and a table with columns of twelve.
fn log(records: &[Map<String, Value>], described: &Value) -> String {
    let mut text = String::new();
    for (title, group) in [("Args", "args"), ("HParams", "hparams")] {
        text += &format!("{title}:\n");
        let mut rows: Vec<_> = described[group].as_object().into_iter().flatten().collect();
        rows.sort_by_key(|row| row.0);
        for (key, value) in rows {
            text +=
                &format!("\t{key}: {}\n", value.as_str().map_or_else(|| value.to_string(), str::to_string));
        }
    }
    let cell = |s: &str| format!("{:12}", s.chars().take(12).collect::<String>());
    let mut header: Vec<&String> = vec![];
    for record in records {
        let mut keys: Vec<&String> =
            record.keys().filter(|k| !["args", "hparams"].contains(&k.as_str())).collect();
        keys.sort();
        if keys != header {
            text += &(keys.iter().map(|k| cell(k)).collect::<Vec<_>>().join("  ") + "\n");
        }
        let value = |k: &&String| match &record[*k] {
            Value::Number(n) if n.is_f64() => cell(&format!("{:.10}", n.as_f64().unwrap_or(0.0))),
            v => cell(&v.to_string()),
        };
        text += &(keys.iter().map(value).collect::<Vec<_>>().join("  ") + "\n");
        header = keys;
    }
    text
}
