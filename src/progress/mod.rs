//! Progress of long work, and stopping it. A terminal shows a bar with rate and time left; elsewhere standard error gets a plain line
//! every 20 seconds. Ctrl-C sets a flag that stages check between steps, so that what they write stays whole. Other processes may watch and
//! pause a run ([`Watch`]).

mod watch;

pub use watch::{Watch, Watched, is_paused, pause, resume, watched};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
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
    counts: Arc<Counts>,
    last_line: Mutex<Instant>,
    bar: Option<ProgressBar>,
    quiet: bool,
}

/// How far a stage is.
struct Counts {
    stage: String,
    unit: String,
    total: u64,
    /// Done by an earlier run, so it does not count for the rate.
    skipped: AtomicU64,
    done: AtomicU64,
    started: Instant,
}

/// All that is going on in this process.
static ACTIVE: Mutex<Vec<Arc<Counts>>> = Mutex::new(vec![]);

fn active() -> MutexGuard<'static, Vec<Arc<Counts>>> {
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
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
        let counts = Arc::new(Counts {
            stage: stage.to_string(),
            unit: unit.to_string(),
            total,
            skipped: AtomicU64::new(0),
            done: AtomicU64::new(0),
            started: Instant::now(),
        });
        active().push(counts.clone());
        Progress { counts, last_line: Mutex::new(Instant::now()), bar, quiet }
    }

    /// `n` more steps are done.
    pub fn inc(&self, n: u64) {
        self.counts.done.fetch_add(n, Relaxed);
        if let Some(bar) = &self.bar {
            return bar.inc(n);
        }
        if self.quiet {
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            eprintln!("{}", self.counts.now().line());
        }
    }

    /// `n` steps were done by an earlier run.
    pub fn skip(&self, n: u64) {
        self.counts.skipped.fetch_add(n, Relaxed);
        self.counts.done.fetch_add(n, Relaxed);
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
        } else if self.counts.started.elapsed() >= QUIET && !self.quiet {
            let (at, seconds) = (self.counts.now(), self.counts.started.elapsed().as_secs_f64());
            eprintln!("{}: {} {} in {seconds:.1} s", at.stage, at.done, at.unit);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        active().retain(|counts| !Arc::ptr_eq(counts, &self.counts));
    }
}

impl Counts {
    fn now(&self) -> Stage {
        let (done, seconds) = (self.done.load(Relaxed), self.started.elapsed().as_secs_f64());
        let rate = (done - self.skipped.load(Relaxed)) as f64 / seconds.max(1e-3);
        let left = (rate > 0.0).then(|| self.total.saturating_sub(done) as f64 / rate);
        Stage { stage: self.stage.clone(), unit: self.unit.clone(), total: self.total, done, rate, left }
    }
}

/// How far a stage was at some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// What it counts.
    pub unit: String,
    /// How many there are.
    pub total: u64,
    /// How many are done.
    pub done: u64,
    /// How many a second.
    pub rate: f64,
    /// Seconds that are left; nothing before the first is done.
    pub left: Option<f64>,
}

impl Stage {
    /// `images: 40/220 images, 2.5/s, 72 s left`
    fn line(&self) -> String {
        let Stage { stage, unit, total, done, rate, left } = self;
        let left = left.map_or_else(String::new, |left| format!(", {} left", duration(left)));
        format!("{stage}: {done}/{total} {unit}, {rate:.1}/s{left}")
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

/// Whether Ctrl-C or a termination signal was seen. A run that is watched waits here while it is paused.
pub fn stopped() -> bool {
    let pause = watch::pause_file();
    while !STOPPED.load(Relaxed) && pause.as_ref().is_some_and(|file| file.exists()) {
        std::thread::sleep(Duration::from_millis(100));
    }
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
        let Stage { done, rate, left, .. } = progress.counts.now();
        assert!(done == 40 && (left.unwrap() * rate - 180.0).abs() < 1e-6, "{rate}: 20 of them count");
        let (stage, unit) = ("images".to_string(), "images".to_string());
        let stage = Stage { stage, unit, total: 220, done, rate: 2.5, left: Some(72.0) };
        assert_eq!(stage.line(), "images: 40/220 images, 2.5/s, 72 s left");
        let counts = progress.counts.clone();
        progress.finish();
        assert!(!active().iter().any(|c| Arc::ptr_eq(c, &counts)));
        assert!(!stopped() && bail_if_stopped().is_ok());
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([0.2, 99.0, 130.0, 7799.0].map(duration), ["0 s", "99 s", "2 min", "2 h 10 min"]);
    }
}
