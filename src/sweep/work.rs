//! Runs jobs on this machine, one worker per adapter. An interrupted job resumes from its checkpoint. One that fails is tried once more, on
//! a device opened anew, and then marked with its error; the others continue.

use super::claim::{Claim, holder, host};
use super::label;
use super::state::{Log, State};
use crate::core::{Gpu, GpuOptions};
use crate::progress::{bail_if_stopped, be_quiet, catch_ctrl_c, duration, stopped, time_left};
use crate::train::{self, Training};
use anyhow::{Error, Result, anyhow, bail};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many jobs are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// With results.
    pub done: usize,
    /// Marked with an error.
    pub failed: usize,
    /// Run by other processes.
    pub elsewhere: usize,
}

/// Runs all `jobs` that are not done, with one worker for each of `gpus`. Those that failed before are skipped unless `retry_failed`.
///
/// # Errors
/// No such adapter; a full disk; Ctrl-C. A job that fails is counted, not an error.
pub fn run_jobs(gpus: &[GpuOptions], jobs: &[Training], retry_failed: bool) -> Result<Tally> {
    catch_ctrl_c();
    let work = Work {
        jobs,
        retry_failed,
        next: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
        workers: gpus.len(),
        took: Mutex::new(vec![]),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = gpus.iter().map(|gpu| scope.spawn(|| work.worker(gpu))).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked"))))
    })?;
    bail_if_stopped()?;
    Ok(tally(jobs))
}

/// Runs one job if it is not done; if another process works on it, waits for that.
///
/// # Errors
/// As [`run_jobs`]; the job's own.
pub fn run_job(gpu: &GpuOptions, job: &Training, retry_failed: bool) -> Result<()> {
    catch_ctrl_c();
    let mut waiting = false;
    loop {
        match State::of(&job.out) {
            State::Done => return Ok(()),
            State::Failed if !retry_failed => break,
            _ => {}
        }
        if let Some(_claim) = Claim::take(&job.out)? {
            run_claimed(&mut None, gpu, job)?;
            break;
        }
        if !waiting {
            eprintln!("{}: waiting for {}, which runs this job", job.out.display(), holder(&job.out));
            waiting = true;
        }
        std::thread::sleep(Duration::from_secs(1));
        bail_if_stopped()?;
    }
    match Log::read(&job.out).error {
        Some(error) => Err(anyhow!("{}: {error}", label(job))),
        None => Ok(()),
    }
}

fn tally(jobs: &[Training]) -> Tally {
    let mut tally = Tally::default();
    for job in jobs {
        match State::of(&job.out) {
            State::Done => tally.done += 1,
            State::Failed => tally.failed += 1,
            State::Running => tally.elsewhere += 1,
            State::Incomplete | State::NotLaunched => {}
        }
    }
    tally
}

/// What workers share.
struct Work<'a> {
    jobs: &'a [Training],
    retry_failed: bool,
    /// The first job that no worker has looked at.
    next: AtomicUsize,
    /// Whether a worker ended with an error that would stop the others too.
    broken: AtomicBool,
    workers: usize,
    /// Seconds of the jobs that ended.
    took: Mutex<Vec<f64>>,
}

impl Work<'_> {
    fn worker(&self, options: &GpuOptions) -> Result<()> {
        if self.workers > 1 {
            // The progress bars of several trainings would overwrite each other.
            be_quiet();
        }
        let done = self.work(options);
        self.broken.fetch_or(done.is_err(), Relaxed);
        done
    }

    fn work(&self, options: &GpuOptions) -> Result<()> {
        let mut gpu = None;
        while !stopped() && !self.broken.load(Relaxed) {
            let i = self.next.fetch_add(1, Relaxed);
            let Some(job) = self.jobs.get(i) else { break };
            match State::of(&job.out) {
                State::Done | State::Running => continue,
                State::Failed if !self.retry_failed => continue,
                _ => {}
            }
            let Some(claim) = Claim::take(&job.out)? else { continue };
            // Another process may have finished it since.
            if State::of(&job.out) == State::Done {
                continue;
            }
            eprintln!("job {i}: {}", label(job));
            let started = Instant::now();
            run_claimed(&mut gpu, options, job)?;
            drop(claim);
            self.report(i, started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Reports how many jobs are left, and how long they will take.
    fn report(&self, i: usize, seconds: f64) {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.push(seconds);
        let ended = |job: &&Training| matches!(State::of(&job.out), State::Done | State::Failed);
        let left = self.jobs.len() - self.jobs.iter().filter(ended).count();
        if let Some(rest) = time_left(&took, left, self.workers).filter(|_| left > 0) {
            let (all, took) = (self.jobs.len(), duration(seconds));
            eprintln!("job {i} took {took}; {left} of {all} are left, about {rest}");
        }
    }
}

/// Trains a job that this process has claimed, and logs how it went.
fn run_claimed(gpu: &mut Option<Gpu>, options: &GpuOptions, job: &Training) -> Result<()> {
    let mut log = Log { host: host(), error: None, ..Log::read(&job.out) };
    for again in [true, false] {
        if gpu.is_none() {
            *gpu = Some(Gpu::open(options)?);
        }
        let Some(device) = gpu.as_ref() else { continue };
        log.adapter = device.caps().adapter.clone();
        let started = Instant::now();
        let result = train(device, job);
        log.seconds += started.elapsed().as_secs_f64();
        match result {
            Ok(()) => return log.write(&job.out),
            Err(_) if stopped() => {
                log.write(&job.out)?;
                return bail_if_stopped();
            }
            // Not the job's fault, and the others would fail too.
            Err(e) if disk_is_full(&e) => return Err(e),
            Err(e) if again => {
                eprintln!("{}: {e:#}; it is tried once more", label(job));
                // It may have been the device.
                *gpu = None;
            }
            Err(e) => {
                let error = format!("{e:#}");
                eprintln!("{}: {error}; it is marked as failed", label(job));
                log.error = Some(error);
                return log.write(&job.out);
            }
        }
    }
    Ok(())
}

/// The training. A panic is an error too: one job must not end a sweep of days.
fn train(gpu: &Gpu, job: &Training) -> Result<()> {
    match catch_unwind(AssertUnwindSafe(|| train::run(gpu, job))) {
        Ok(result) => result.map(|_| ()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| t.to_string()));
            bail!("a mistake in this program: {}", text.unwrap_or_default())
        }
    }
}

fn disk_is_full(error: &Error) -> bool {
    let kinds = error.chain().filter_map(|e| Some(e.downcast_ref::<std::io::Error>()?.kind()));
    kinds.into_iter().any(|kind| [ErrorKind::StorageFull, ErrorKind::QuotaExceeded].contains(&kind))
}
