//! Progress of long work, and stopping it. A terminal shows a bar with rate and time left; elsewhere standard error gets a plain line
//! every 20 seconds. Ctrl-C sets a flag that stages check between steps, so that what they write stays whole.

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Without a terminal: time between two lines, and the shortest work that gets a line at all.
const LINE_EVERY: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_secs(2);

static STOPPED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static QUIET_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// The progress of one stage. Methods take `&self`, so that threads and closures can share it.
pub struct Progress {
    stage: String,
    unit: String,
    total: u64,
    /// Done by an earlier run, so it does not count for the rate.
    skipped: AtomicU64,
    done: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// A stage of `total` steps of `unit` ("images", "steps"). Also makes Ctrl-C a request to stop between steps.
    pub fn new(stage: &str, total: u64, unit: &str) -> Progress {
        catch_ctrl_c();
        let quiet = QUIET_THREAD.get();
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let form = "{prefix:9} {bar:30} {pos}/{len} {msg}  {per_sec}  {eta} left";
            let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_prefix(stage.to_string());
            bar.set_message(unit.to_string());
            bar
        });
        let now = Instant::now();
        Progress {
            stage: stage.to_string(),
            unit: unit.to_string(),
            total,
            skipped: AtomicU64::new(0),
            done: AtomicU64::new(0),
            started: now,
            last_line: Mutex::new(now),
            bar,
            quiet,
        }
    }

    /// `n` more steps are done.
    pub fn inc(&self, n: u64) {
        let done = self.done.fetch_add(n, Relaxed) + n;
        if let Some(bar) = &self.bar {
            return bar.inc(n);
        }
        if self.quiet {
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            eprintln!("{}", self.line(done, self.started.elapsed().as_secs_f64()));
        }
    }

    /// `n` steps were done by an earlier run.
    pub fn skip(&self, n: u64) {
        self.skipped.fetch_add(n, Relaxed);
        self.done.fetch_add(n, Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(n);
            bar.reset_eta();
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None if self.quiet => {}
            None => eprintln!("{line}"),
        }
    }

    /// The stage is over.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        } else if self.started.elapsed() >= QUIET && !self.quiet {
            let (done, seconds) = (self.done.load(Relaxed), self.started.elapsed().as_secs_f64());
            eprintln!("{}: {done} {} in {seconds:.1} s", self.stage, self.unit);
        }
    }

    /// `images: 40/220 images, 2.5/s, 72 s left`
    fn line(&self, done: u64, seconds: f64) -> String {
        let rate = (done - self.skipped.load(Relaxed)) as f64 / seconds.max(1e-3);
        let left = self.total.saturating_sub(done) as f64 / rate.max(1e-9);
        let left = duration(left);
        format!("{}: {done}/{} {}, {rate:.1}/s, {left} left", self.stage, self.total, self.unit)
    }
}

/// `42 s`, `3 min`, `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    match (seconds + 0.5) as u64 {
        s @ 0..100 => format!("{s} s"),
        s @ 100..5400 => format!("{} min", (s + 30) / 60),
        s => format!("{} h {} min", (s + 30) / 3600, (s + 30) / 60 % 60),
    }
}

/// How long `left` more jobs will take, `at_once` at a time, if those done so far took `took` seconds each; nothing if none is done.
pub fn time_left(took: &[f64], left: usize, at_once: usize) -> Option<String> {
    let mean = took.iter().sum::<f64>() / took.len() as f64;
    (!took.is_empty()).then(|| duration(mean * left as f64 / at_once as f64))
}

/// Prints a line on standard error, unless this thread is quiet.
pub fn say(line: &str) {
    if !QUIET_THREAD.get() {
        eprintln!("{line}");
    }
}

/// Whether Ctrl-C or a termination signal was seen.
pub fn stopped() -> bool {
    STOPPED.load(Relaxed)
}

/// Call this between steps, when everything done so far is on disk.
///
/// # Errors
/// After Ctrl-C.
pub fn bail_if_stopped() -> Result<()> {
    if stopped() {
        bail!("stopped; the same command resumes from here");
    }
    Ok(())
}

/// Work that this thread starts from now on shows no progress.
pub fn be_quiet() {
    QUIET_THREAD.set(true);
}

/// The first Ctrl-C asks for a stop between steps; the second ends the process, which loses at most the current step.
pub fn catch_ctrl_c() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A handler that cannot be set leaves the system's own, which ends the process.
        let _ = ctrlc::set_handler(|| {
            if STOPPED.swap(true, Relaxed) {
                std::process::exit(130);
            }
            eprintln!("\nstopping after this step (Ctrl-C again: at once)");
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_are_no_part_of_the_rate() {
        let progress = Progress::new("images", 220, "images");
        progress.skip(20);
        progress.inc(20);
        assert_eq!(progress.line(40, 8.0), "images: 40/220 images, 2.5/s, 72 s left");
        progress.finish();
        assert!(!stopped() && bail_if_stopped().is_ok());
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([0.2, 99.0, 130.0, 7799.0].map(duration), ["0 s", "99 s", "2 min", "2 h 10 min"]);
    }
}
