//! Where the time of a run goes.

use std::time::{Duration, Instant};

/// Least time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);

/// Clocks of the host, which is a step or two ahead of the device.
pub struct Clocks {
    /// Since the last row of metrics.
    pub row: Lap,
    /// Since the last result.
    pub result: Lap,
    /// Spent on minibatches since the last result. The device does not wait for them unless its own work takes less.
    pub preparing: Duration,
    /// When the last checkpoint was written, or later.
    saved: Instant,
}

/// Steps that are timed together.
pub struct Lap {
    /// The first of them.
    pub from: usize,
    start: Instant,
}

impl Lap {
    /// Begins now, with the step `from`.
    pub fn new(from: usize) -> Lap {
        Lap { from, start: Instant::now() }
    }

    /// Number of steps up to `step`.
    pub fn steps(&self, step: usize) -> f64 {
        (step + 1 - self.from) as f64
    }

    /// Mean seconds of the steps up to `step`.
    pub fn seconds(&self, step: usize) -> f64 {
        self.start.elapsed().as_secs_f64() / self.steps(step)
    }
}

impl Clocks {
    /// Begins with the step `next`, when results so far end before the step `result`.
    pub fn new(next: usize, result: usize) -> Clocks {
        Clocks {
            row: Lap::new(next),
            result: Lap::new(result),
            preparing: Duration::ZERO,
            saved: Instant::now(),
        }
    }

    /// Whether the last checkpoint is old.
    pub fn save_due(&self) -> bool {
        self.saved.elapsed() > CHECKPOINT_EVERY
    }

    /// A checkpoint was written, which took from `began` until now.
    pub fn saved(&mut self, began: Instant) {
        let took = began.elapsed();
        // A large model on a slow disk must not spend its time on checkpoints.
        self.saved = Instant::now() + 20 * took;
        self.row.start += took;
        self.result.start += took;
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let since = std::time::UNIX_EPOCH.elapsed();
    since.map_or(0.0, |t| (t.as_secs_f64() * 1e3).round() / 1e3)
}
