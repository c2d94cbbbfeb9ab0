//! SWAD (Cha et al., "SWAD: domain generalization by seeking flat minima", NeurIPS 2021): the weights are averaged densely, after
//! every step, over a window that the validation loss chooses. It begins where the loss stops falling, the lowest of `PATIENCE`
//! measurements, and ends before the loss has stayed above `TOLERANCE` times their mean for `OVERFIT` of them.
//!
//! The device averages the weights from one measurement to the next; here these averages wait until it is known whether they
//! belong to the window. Where the loss falls to the end, the last of them is taken, as the authors' program does.

use crate::core::Store;
use crate::domainbed::AVERAGE;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};

/// Measurements of which the first must be lowest for the window to begin there.
const PATIENCE: usize = 3;
/// Measurements above the threshold with which it has ended.
const OVERFIT: usize = 6;
/// The threshold over the mean loss where it began.
const TOLERANCE: f32 = 1.3;
/// What the names of its tensors in a checkpoint begin with.
pub const PREFIX: &str = "swad.";
/// The checkpoint's metadata that holds the rest.
pub const STATE: &str = "swad";

type Weights = BTreeMap<String, Vec<f32>>;

/// The weights between two measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Segment {
    /// Step of the measurement at its end.
    end: usize,
    /// Validation loss there.
    loss: f32,
    /// Mean weights of its steps.
    #[serde(skip)]
    mean: Weights,
}

/// The window so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Window {
    threshold: f32,
    /// Mean weights of its segments, except those that wait.
    #[serde(skip)]
    mean: Weights,
    segments: usize,
    /// Step of the measurement at the end of the first and the last of them.
    steps: [usize; 2],
    /// Whether it has ended.
    left: bool,
}

/// The weights that may come into the average.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Swad {
    waiting: VecDeque<Segment>,
    window: Option<Window>,
}

impl Window {
    fn new(threshold: f32) -> Window {
        Window { threshold, mean: Weights::new(), segments: 0, steps: [0, 0], left: false }
    }

    fn add(&mut self, segment: Segment) {
        if self.segments == 0 {
            self.steps[0] = segment.end;
        }
        self.segments += 1;
        self.steps[1] = segment.end;
        for (name, new) in segment.mean {
            match self.mean.get_mut(&name) {
                Some(mean) => {
                    mean.iter_mut().zip(new).for_each(|(m, v)| *m += (v - *m) / self.segments as f32)
                }
                None => drop(self.mean.insert(name, new)),
            }
        }
    }
}

impl Swad {
    /// Takes the device's average of the weights since the last measurement, at `step`, where the validation loss is `loss`.
    ///
    /// # Errors
    /// A device that failed.
    pub fn measured(&mut self, store: &Store, step: usize, loss: f32) -> Result<()> {
        self.push(step, loss, || {
            let names = store.names().into_iter().filter(|name| name.starts_with(AVERAGE));
            names.map(|name| Ok((name.clone(), store.read(&name)?.1))).collect()
        })
    }

    /// Adds a segment, whose weights are only asked for while the window lasts.
    fn push(&mut self, end: usize, loss: f32, mean: impl FnOnce() -> Result<Weights>) -> Result<()> {
        if self.window.as_ref().is_some_and(|window| window.left) {
            return Ok(());
        }
        self.waiting.push_back(Segment { end, loss, mean: mean()? });
        match &mut self.window {
            None => {
                while self.waiting.len() > PATIENCE {
                    self.waiting.pop_front();
                }
                let losses: Vec<f32> = self.waiting.iter().map(|s| s.loss).collect();
                if losses.len() == PATIENCE && losses.iter().all(|&loss| losses[0] <= loss) {
                    self.window = Some(Window::new(TOLERANCE * losses.iter().sum::<f32>() / PATIENCE as f32));
                }
            }
            Some(window) => {
                if self.waiting.len() > OVERFIT {
                    window.add(self.waiting.pop_front().expect("more than none"));
                }
                let above = |segment: &Segment| segment.loss > window.threshold;
                if self.waiting.len() == OVERFIT && self.waiting.iter().all(above) {
                    window.left = true;
                    self.waiting.clear();
                }
            }
        }
        Ok(())
    }

    /// What a checkpoint keeps of it: weights by name, and the rest as JSON.
    pub fn state(&self) -> (BTreeMap<String, Vec<f32>>, String) {
        let mut tensors = BTreeMap::new();
        let mut put = |of: &str, mean: &Weights| {
            tensors.extend(mean.iter().map(|(name, data)| (format!("{PREFIX}{of}.{name}"), data.clone())));
        };
        self.waiting.iter().enumerate().for_each(|(i, segment)| put(&i.to_string(), &segment.mean));
        self.window.iter().for_each(|window| put("window", &window.mean));
        (tensors, json!(self).to_string())
    }

    /// The reverse.
    ///
    /// # Errors
    /// A text that is not of [`Swad::state`].
    pub fn restore(tensors: &BTreeMap<String, Vec<f32>>, state: &str) -> Result<Swad> {
        let mut swad: Swad = serde_json::from_str(state).context("the state of SWAD")?;
        let weights = |of: &str| -> Weights {
            let start = format!("{PREFIX}{of}.");
            let own = tensors.iter().filter_map(|(n, data)| Some((n.strip_prefix(&start)?, data)));
            own.map(|(name, data)| (name.to_string(), data.clone())).collect()
        };
        for (i, segment) in swad.waiting.iter_mut().enumerate() {
            segment.mean = weights(&i.to_string());
        }
        if let Some(window) = &mut swad.window {
            window.mean = weights("window");
        }
        Ok(swad)
    }

    /// Puts the average into the store, where predictions find it. The steps of the measurements at the end of its first and its
    /// last segment.
    ///
    /// # Errors
    /// No measurement; a device that failed.
    pub fn finish(self, store: &mut Store) -> Result<[usize; 2]> {
        let window = self.close()?;
        for (name, values) in window.mean {
            let (shape, _) = store.read(&name)?;
            store.write(&name, &shape, &values)?;
        }
        Ok(window.steps)
    }

    /// The window, when nothing more comes.
    fn close(mut self) -> Result<Window> {
        if let Some(mut window) = self.window {
            self.waiting.drain(..).for_each(|segment| window.add(segment));
            return Ok(window);
        }
        let mut last = Window::new(f32::INFINITY);
        last.add(self.waiting.pop_back().context("no validation loss was measured")?);
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window of these losses, whose i-th segment has the weight i: the mean, and the numbers of its first and last segment.
    fn window(losses: &[f32]) -> (f32, [usize; 2]) {
        let mut swad = Swad::default();
        for (i, &loss) in losses.iter().enumerate() {
            swad.push(i, loss, || Ok(Weights::from([("average.w".into(), vec![i as f32])]))).unwrap();
        }
        let window = swad.close().unwrap();
        (window.mean["average.w"][0], window.steps)
    }

    #[test]
    fn the_window_begins_where_the_loss_stops_to_fall_and_ends_before_it_has_risen() {
        // The lowest of three is at 2; the loss stays below 1.3 times their mean until 6.
        let losses = [3.0, 2.0, 1.0, 1.1, 1.2, 1.1, 1.3, 1.5, 1.6, 1.6, 1.7, 1.8, 1.9, 0.1, 0.1];
        assert_eq!(window(&losses), (4.0, [2, 6]));
        // A rise that does not last does not end it.
        let losses = [3.0, 1.0, 1.1, 1.2, 9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 1.0];
        assert_eq!(window(&losses), (5.5, [1, 10]));
        // It falls to the end.
        assert_eq!(window(&[5.0, 4.0, 3.0, 2.0]), (3.0, [3, 3]));
        assert_eq!(window(&[5.0]), (0.0, [0, 0]));
        assert!(Swad::default().close().is_err());
    }

    #[test]
    fn its_state_comes_back_as_it_was() {
        let mut swad = Swad::default();
        for (i, loss) in [0.3, 0.1, 0.2, 0.30000001, 0.7].into_iter().enumerate() {
            let mean = || Ok(Weights::from([("average.w".into(), vec![i as f32, 0.1])]));
            swad.push(100_000_000 + i, loss, mean).unwrap();
            let (tensors, state) = swad.state();
            assert_eq!(Swad::restore(&tensors, &state).unwrap(), swad);
        }
        assert!(Swad::restore(&BTreeMap::new(), "").is_err());
    }
}
