//! The folder of a run: `results.jsonl`, `out.txt`, `err.txt` and `done` as DomainBed writes them, `train.json` (what the run depends
//! on), `checkpoint.safetensors` while it is under way, and `model.safetensors` at its end.

use super::swad::{self, Swad};
use crate::core::Store;
use crate::data::checkpoint::{Checkpoint, TensorData, save};
use crate::data::dataset::Dataset;
use crate::data::{lock, make_folder, python, write_atomic};
use crate::domainbed::algorithms::fish::INNER;
use crate::domainbed::network::{Featurizer, Network};
use crate::domainbed::trainer::AVERAGE;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// The folder of a run.
pub struct Folder<'a> {
    path: &'a Path,
    /// Held until the run ends: two processes would write over each other's checkpoints.
    _lock: File,
}

const CHECKPOINT: &str = "checkpoint.safetensors";

impl<'a> Folder<'a> {
    /// Claims the folder for the run that `described` tells of.
    pub fn open(path: &'a Path, described: &Value) -> Result<Self> {
        make_folder(path)?;
        // DomainBed's file for errors, which stays empty, and is never replaced as the others are: it carries the lock.
        let log = path.join("err.txt");
        let lock = File::options().create(true).append(true).open(&log);
        let lock = lock
            .with_context(|| format!("{}: cannot write (is the disk full or read-only?)", log.display()))?;
        lock::hold(path, &lock)?;

        let file = path.join("train.json");
        let text = serde_json::to_string_pretty(described)? + "\n";
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
                    difference(&held, described)
                );
            }
            None => bail!("{}: holds results of something else: choose another --out", path.display()),
        }
        Ok(Folder { path, _lock: lock })
    }

    /// The rows of results.jsonl.
    pub fn records(&self) -> Result<Vec<Map<String, Value>>> {
        let file = self.path.join("results.jsonl");
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(e).with_context(|| format!("{}: cannot read", file.display())),
        };
        let lines = bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let row = |(i, line): (usize, &[u8])| {
            serde_json::from_slice(line).map_err(|_| {
                anyhow!("{}, line {}: not a whole result; {}", file.display(), i + 1, self.anew())
            })
        };
        lines.map(row).collect()
    }

    /// Fails unless `records` are those of the steps `due`, in order: files may be lost or cut by hand or by a crash.
    pub fn check_records(
        &self,
        records: &[Map<String, Value>],
        mut due: impl Iterator<Item = usize>,
    ) -> Result<()> {
        let mut steps = records.iter().map(|r| r.get("step").and_then(Value::as_u64));
        let file = || self.path.join("results.jsonl").display().to_string();
        loop {
            match (due.next(), steps.next()) {
                (None, None) => return Ok(()),
                (Some(step), found) if found != Some(Some(step as u64)) => {
                    bail!("{}: the result of step {step} is missing; {}", file(), self.anew())
                }
                (None, Some(_)) => bail!("{}: more results than steps; {}", file(), self.anew()),
                _ => {}
            }
        }
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
    pub fn anew(&self) -> String {
        format!("delete {} to train anew", self.path.display())
    }

    /// What is said of a checkpoint that is no use.
    pub fn cannot_go_on(&self) -> String {
        let file = self.path.join(CHECKPOINT);
        format!("{}: cannot go on from this checkpoint; delete it to train anew", file.display())
    }

    /// Brings back every tensor of the last checkpoint: the step to go on with, of `steps`, and what is kept of SWAD.
    pub fn restore(&self, store: &mut Store, steps: usize) -> Result<(usize, Swad)> {
        let file = self.path.join(CHECKPOINT);
        if !file.exists() {
            return Ok((0, Swad::default()));
        }
        let (mut start, mut kept) = (0, BTreeMap::new());
        let mut read = || -> Result<()> {
            let checkpoint = Checkpoint::open(&file)?;
            for name in checkpoint.names() {
                let (shape, data) = checkpoint.tensor(name)?;
                match name {
                    "next_step" if data.len() == 2 => start = whole([data[0], data[1]]),
                    _ if name.starts_with(swad::PREFIX) => drop(kept.insert(name.to_string(), data)),
                    _ => store.write(name, &shape, &data)?,
                }
            }
            Ok(())
        };
        read().with_context(|| self.cannot_go_on())?;
        if !(1..=steps).contains(&start) {
            bail!("{}: it does not say at which step", self.cannot_go_on());
        }
        Ok((start, Swad::restore(kept).with_context(|| self.cannot_go_on())?))
    }

    pub fn checkpoint(&self, store: &Store, step: usize, swad: &Swad) -> Result<()> {
        let mut tensors = swad.tensors();
        for name in store.names() {
            let (shape, data) = store.read(&name)?;
            // The last good checkpoint stays.
            if data.iter().any(|v| !v.is_finite()) {
                let step = step - 1;
                bail!("after step {step}: {name} is not finite: training diverged; lower the learning rate");
            }
            tensors.insert(name, TensorData::f32(&shape, &data));
        }
        tensors.insert("next_step".into(), TensorData::f32(&[2], &halves(step)));
        save(self.path.join(CHECKPOINT), &tensors, &BTreeMap::new())
    }

    /// results.jsonl and out.txt, whole.
    pub fn write_records(&self, records: &[Map<String, Value>], described: &Value) -> Result<()> {
        let lines: String = records.iter().map(|r| python::json(r) + "\n").collect();
        write_atomic(self.path.join("results.jsonl"), lines.as_bytes())?;
        write_atomic(self.path.join("out.txt"), log(records, described).as_bytes())
    }

    /// The trained network and `done`, after which nothing is left to go on with.
    pub fn write_model(&self, store: &Store, network: &Network, dataset: &Dataset) -> Result<()> {
        let (moments, others) = ([".exp_avg", ".exp_avg_sq"], ["log.", INNER, AVERAGE]);
        let own =
            |n: &String| !others.iter().any(|o| n.starts_with(o)) && !moments.iter().any(|m| n.ends_with(m));
        let held = store.names();
        let mut tensors = BTreeMap::new();
        for name in held.iter().filter(|n| own(n)) {
            // What predicts is what is kept.
            let average = format!("{AVERAGE}{name}");
            let (shape, data) = store.read(if held.contains(&average) { &average } else { name })?;
            tensors.insert(name.clone(), TensorData::f32(&shape, &data));
        }
        let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        metadata.insert("classes".into(), dataset.classes.join(","));
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

/// A step in two halves, each exact as f32.
pub fn halves(step: usize) -> [f32; 2] {
    [(step / 65536) as f32, (step % 65536) as f32]
}

/// The reverse.
pub fn whole([high, low]: [f32; 2]) -> usize {
    high as usize * 65536 + low as usize
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
