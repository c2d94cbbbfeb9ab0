//! `metrics.jsonl`: what a run logged, a row every N steps; the same for TensorBoard; and `curves.svg`, drawn from it and from
//! the results.
//!
//! The device adds the numbers up; a row is read while it works on the steps after it.

use super::events::Events;
use super::schedule::Schedule;
use crate::data::write_atomic;
use crate::domainbed::trainer::{Logged, Trainer};
use anyhow::{Context, Result, bail};
use plotters::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The rows of a run so far.
pub struct Metrics {
    file: PathBuf,
    rows: Vec<Map<String, Value>>,
    /// First step of the row that is being added up.
    from: usize,
    /// A row that the device has not handed over yet, and its last step.
    pending: Option<(Logged, usize)>,
    events: Events,
}

impl Metrics {
    /// The rows before step `start` that are in `folder`; `records` are the results so far.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that lacks rows.
    pub fn open(
        folder: &Path,
        start: usize,
        schedule: &Schedule,
        records: &[Map<String, Value>],
    ) -> Result<Metrics> {
        let file = folder.join("metrics.jsonl");
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(|| format!("{}: cannot read", file.display())),
        };
        let rows: Vec<Map<String, Value>> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut rows =
            rows.into_iter().filter(|row| step(row).is_some_and(|s| s < start)).collect::<Vec<_>>();
        let wanted: Vec<usize> = (0..start).filter(|&s| schedule.row_ends(s)).collect();
        rows.sort_by_key(step);
        if rows.iter().filter_map(step).ne(wanted.iter().copied()) {
            let folder = folder.display();
            bail!(
                "{}: rows of steps before {start} are missing; delete {folder} to train anew",
                file.display()
            );
        }
        let accuracies: Vec<_> = records.iter().map(|record| accuracies(record, &rows)).collect();
        let events = Events::open(folder, rows.iter().chain(&accuracies))?;
        Ok(Metrics { file, rows, from: wanted.last().map_or(0, |s| s + 1), pending: None, events })
    }

    /// The step from which on numbers are being added up.
    pub fn since(&self) -> u32 {
        self.from as u32
    }

    /// Ends a row with `step`: what was logged, and `more`, without waiting for the device.
    ///
    /// # Errors
    /// Those of the row before.
    pub fn end_row(&mut self, trainer: &Trainer, step: usize, more: Map<String, Value>) -> Result<()> {
        self.flush()?;
        self.rows.push(more);
        self.pending = Some((trainer.logged_later(self.from as u32, step as u32 + 1), step));
        self.from = step + 1;
        Ok(())
    }

    /// Takes the pending row if it has come.
    ///
    /// # Errors
    /// As [`Metrics::flush`].
    pub fn poll(&mut self) -> Result<()> {
        match &self.pending {
            Some((logged, _)) if logged.is_ready() => self.flush(),
            _ => Ok(()),
        }
    }

    /// Waits for the pending row and writes the file.
    ///
    /// # Errors
    /// A device that failed; a number that is not finite; a disk that is full.
    pub fn flush(&mut self) -> Result<()> {
        let Some((logged, step)) = self.pending.take() else { return Ok(()) };
        let values = logged.wait().with_context(|| format!("steps up to {step}"))?;
        let row = self.rows.last_mut().context("a row is pending")?;
        row.insert("step".into(), json!(step));
        row.extend(values.into_iter().map(|(name, value)| (name.into(), short(value))));
        self.events.add(row)?;
        let lines: String =
            self.rows.iter().map(|row| Value::Object(row.clone()).to_string() + "\n").collect();
        write_atomic(&self.file, lines.as_bytes())
    }

    /// Means of what was logged in the steps from `since` on, each over the steps that gave it.
    pub fn means(&self, trainer: &Trainer, since: usize) -> BTreeMap<String, f64> {
        let mut sums: BTreeMap<String, [f64; 2]> = BTreeMap::new();
        let mut from = since;
        for row in self.rows.iter().filter(|row| step(row).is_some_and(|s| s >= since)) {
            let end = step(row).map_or(from, |s| s + 1);
            for name in trainer.names() {
                let count = trainer.count(name, from as u32, end as u32) as f64;
                if let Some(value) = row.get(name).and_then(Value::as_f64) {
                    let sum = sums.entry(name.into()).or_default();
                    *sum = [sum[0] + count * value, sum[1] + count];
                }
            }
            from = end;
        }
        sums.into_iter().map(|(name, [sum, count])| (name, sum / count)).collect()
    }

    /// The values of `name`, row by row.
    fn column(&self, name: &str) -> Vec<(f64, f64)> {
        let point = |row: &Map<String, Value>| Some((step(row)? as f64, row.get(name)?.as_f64()?));
        self.rows.iter().filter_map(point).collect()
    }

    /// The first number that algorithms log, as a line of blocks from the first row to the last: `loss ▇▅▃▂▁ 1.92 -> 0.31`.
    pub fn spark(&self, trainer: &Trainer) -> Option<String> {
        let name = trainer.names().into_iter().find(|name| name.contains("loss"))?;
        let values: Vec<f64> = self.column(name).into_iter().map(|p| p.1).collect();
        let (first, last) = (values.first()?, values.last()?);
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let block =
            |v: f64| ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][(7.0 * (v - low) / (high - low)) as usize];
        let every = values.len().div_ceil(60);
        let line: String =
            values.chunks(every).map(|c| block(c.iter().sum::<f64>() / c.len() as f64)).collect();
        (high > low).then(|| format!("{name} {line} {first:.3} -> {last:.3}"))
    }

    /// Draws what was logged and the accuracies of `records`, the last of which is new, over the steps into `curves.svg`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn draw(&mut self, trainer: &Trainer, records: &[Map<String, Value>]) -> Result<()> {
        if let Some(record) = records.last() {
            self.events.add(&accuracies(record, &self.rows))?;
        }
        let logged = trainer.names().into_iter().map(|name| (name.to_string(), self.column(name)));
        let keys = records.first().into_iter().flat_map(Map::keys).filter(|key| key.ends_with("_acc"));
        let keys: BTreeSet<&String> = keys.collect();
        let accuracy = |key: &&String| {
            let point = |r: &Map<String, Value>| Some((step(r)? as f64, 100.0 * r.get(*key)?.as_f64()?));
            (key.to_string(), records.iter().filter_map(point).collect())
        };
        let mut svg = String::new();
        let drawn = {
            let root = SVGBackend::with_string(&mut svg, (960, 360)).into_drawing_area();
            let (left, right) = root.split_horizontally(480);
            panel(&left, "logged", logged.collect())
                .and_then(|()| panel(&right, "accuracy, %", keys.iter().map(accuracy).collect()))
                .and_then(|()| root.present().map_err(|e| anyhow::anyhow!("{e}")))
        };
        drawn.context("curves.svg")?;
        write_atomic(self.file.with_file_name("curves.svg"), svg.as_bytes())
    }
}

/// Lines over steps, with their names.
fn panel(
    area: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    title: &str,
    lines: Vec<(String, Vec<(f64, f64)>)>,
) -> Result<()> {
    let points = || lines.iter().flat_map(|line| line.1.iter().copied());
    let bounds = |of: fn((f64, f64)) -> f64| {
        let (low, high) = points().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low < high { low..high } else { 0.0..1.0 }
    };
    let broken = |e: DrawingAreaErrorKind<_>| anyhow::anyhow!("{e}");
    area.fill(&WHITE).map_err(broken)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(48)
        .build_cartesian_2d(bounds(|p| p.0), bounds(|p| p.1))
        .map_err(broken)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("step").draw().map_err(broken)?;
    for (i, (name, line)) in lines.into_iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let dots = line.iter().map(|&p| Circle::new(p, 2, color.filled())).collect::<Vec<_>>();
        chart.draw_series(dots).map_err(broken)?;
        let series = chart.draw_series(LineSeries::new(line, &color)).map_err(broken)?;
        series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw().map_err(broken)?;
    Ok(())
}

/// The accuracies of a result, as a row with the time of the one at its step.
fn accuracies(record: &Map<String, Value>, rows: &[Map<String, Value>]) -> Map<String, Value> {
    let wanted = |key: &str, value: &Value| value.is_number() && (key.ends_with("_acc") || key == "step");
    let time = rows.iter().find(|row| step(row) == step(record)).and_then(|row| row.get("time"));
    let numbers = record
        .iter()
        .filter(|(key, value)| wanted(key, value))
        .map(|(key, value)| (key.clone(), value.clone()));
    numbers.chain(time.map(|time| ("time".into(), time.clone()))).collect()
}

fn step(row: &Map<String, Value>) -> Option<usize> {
    row.get("step").and_then(Value::as_u64).map(|s| s as usize)
}

/// A float in as few digits as tell it apart.
fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}
