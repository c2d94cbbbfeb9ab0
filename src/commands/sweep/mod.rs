//! `kaleid sweep`

mod best;
mod plan;

use anyhow::{Context, Result, bail};
use kaleid::core::GpuOptions;
use kaleid::data::write_atomic;
use kaleid::progress::duration;
use kaleid::sweep::records::Records;
use kaleid::sweep::state::{Log, State};
use kaleid::sweep::table::Format;
use kaleid::sweep::work::{run_job, run_jobs};
use kaleid::sweep::{Job, Sweep, collect, cost, label};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Train many: algorithms, variants, test domains, hyper-parameters, splits
#[derive(clap::Args)]
#[command(after_help = "Example:
  kaleid sweep plan runs/pacs --data-dir data --datasets PACS --algorithms ERM CORAL --weights resnet50.safetensors
  kaleid sweep run runs/pacs
  kaleid sweep status runs/pacs
  kaleid sweep collect runs/pacs
  kaleid train --data data/PACS --hparams \"$(kaleid sweep best runs/pacs --algorithm ERM --test-env 3 --hparams)\" ...")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Plan the jobs, and say what they cost
    Plan(Box<plan::Args>),
    /// Run the jobs that are not done; the same command resumes where it was stopped
    Run(Run),
    /// Count jobs by algorithm and state, and say which failed and why
    Status(Status),
    /// Print tables of accuracies, and write them into the folder
    Collect(Collect),
    /// Rank hyper-parameters by validation accuracy
    Best(best::Args),
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    match args.command {
        Command::Plan(args) => plan::run(*args),
        Command::Run(args) => work(args, gpu),
        Command::Status(args) => status(&args),
        Command::Collect(args) => tables(&args),
        Command::Best(args) => best::run(&args),
    }
}

#[derive(clap::Args)]
struct Run {
    /// Folder of the sweep
    dir: PathBuf,
    /// Adapters by number or name, one worker on each [default: the one of --adapter]
    #[arg(long, value_delimiter = ',', value_name = "NAME|INDEX")]
    adapters: Vec<String>,
    /// Only this job, by its place in the plan, from 0
    #[arg(long, value_name = "N", conflicts_with = "adapters")]
    job: Option<usize>,
    /// Also run the jobs that failed before
    #[arg(long)]
    retry_failed: bool,
}

fn work(args: Run, gpu: &GpuOptions) -> Result<()> {
    let jobs = jobs(&args.dir)?;
    let trainings: Vec<_> = jobs.into_iter().map(|j| j.training).collect();
    if let Some(i) = args.job {
        let Some(job) = trainings.get(i) else {
            bail!("--job {i}: {} has jobs 0 to {}", args.dir.display(), trainings.len().saturating_sub(1));
        };
        run_job(gpu, job, args.retry_failed)?;
        return say!("{}", job.out.display());
    }
    let tally = run_jobs(&gpu.each(args.adapters), &trainings, args.retry_failed)?;
    say!("{} of {} jobs are done", tally.done, trainings.len())?;
    if tally.elsewhere > 0 {
        say!("{} are run by other processes", tally.elsewhere)?;
    }
    if tally.failed > 0 {
        let dir = args.dir.display();
        bail!(
            "{} jobs failed: `kaleid sweep status {dir}` says why, --retry-failed tries them anew",
            tally.failed
        );
    }
    Ok(())
}

/// The jobs of the plan in `dir`. Their folders are named in full, as trainings remember them.
fn jobs(dir: &Path) -> Result<Vec<Job>> {
    let sweep = Sweep::open(dir)?;
    sweep.jobs(&dir.canonicalize().with_context(|| format!("{}: cannot read", dir.display()))?)
}

#[derive(clap::Args)]
struct Status {
    /// Folder of the sweep
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn status(args: &Status) -> Result<()> {
    let jobs = jobs(&args.dir)?;
    let states: Vec<State> = jobs.iter().map(|j| State::of(&j.training.out)).collect();
    let mut rows: Vec<(String, [usize; 5])> = vec![];
    for (job, &state) in jobs.iter().zip(&states) {
        let name = format!("{} {}", job.training.algorithm, job.training.variant.name());
        if !rows.iter().any(|r| r.0 == name) {
            rows.push((name.clone(), [0; 5]));
        }
        rows.iter_mut().filter(|r| r.0 == name).for_each(|r| r.1[state as usize] += 1);
    }
    let total = State::ALL.map(|s| states.iter().filter(|&&state| state == s).count());
    let failed: Vec<(usize, &Job)> =
        jobs.iter().enumerate().filter(|&(i, _)| states[i] == State::Failed).collect();
    let error = |job: &Job| Log::read(&job.training.out).error.unwrap_or_default();
    let seconds = cost(&jobs, None).seconds;
    if args.json {
        let counts = |of: &[usize; 5]| -> Value {
            State::ALL.iter().map(|&s| (s.name().to_string(), json!(of[s as usize]))).collect()
        };
        let rows: Vec<Value> =
            rows.iter().map(|(name, of)| json!({"name": name, "counts": counts(of)})).collect();
        let failed: Vec<Value> = failed
            .iter()
            .map(|&(i, job)| json!({"job": i, "folder": job.training.out, "args": job.args, "error": error(job)}))
            .collect();
        let all = json!({"jobs": jobs.len(), "counts": counts(&total), "rows": rows, "failed": failed,
            "seconds_left": seconds});
        return say!("{all:#}");
    }
    let line =
        |name: &str, cells: [String; 5]| format!("{name:24}{}", cells.map(|c| format!("{c:>14}")).concat());
    say!("{}", line("", State::ALL.map(|s| s.name().to_string())))?;
    for (name, counts) in &rows {
        say!("{}", line(name, counts.map(|c| c.to_string())))?;
    }
    say!("{}", line("all", total.map(|c| c.to_string())))?;
    match seconds {
        Some(seconds) if seconds > 0.0 => say!("about {} of one adapter are left", duration(seconds))?,
        _ => {}
    }
    for (i, job) in failed {
        say!("job {i}, {}, failed: {}", label(&job.training), error(job))?;
        say!("    {}", job.training.out.display())?;
    }
    Ok(())
}

#[derive(clap::Args)]
struct Collect {
    /// Folder of the sweep, ours or DomainBed's
    dir: PathBuf,
    /// Format of the tables, which are printed and written into the folder as results.txt, .tex, .md or .json
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Print the paper's tables 1 and 2, with its numbers beside ours, instead of DomainBed's tables
    #[arg(long)]
    paper: bool,
}

fn tables(args: &Collect) -> Result<()> {
    let records = read(&args.dir)?;
    if let Ok(sweep) = Sweep::open(&args.dir) {
        let jobs = sweep.jobs(&args.dir)?;
        let left = jobs.iter().filter(|j| State::of(&j.training.out) != State::Done).count();
        if left > 0 {
            eprintln!("{left} of {} jobs are not done", jobs.len());
        }
    }
    let page = if args.paper { collect::paper(&records) } else { collect::tables(&records) };
    let text = page.render(args.format);
    let name = if args.paper { "paper" } else { "results" };
    write_atomic(args.dir.join(name).with_extension(args.format.ending()), text.as_bytes())?;
    say!("{}", text.trim_end_matches('\n'))
}

fn read(dir: &Path) -> Result<Records> {
    let records = Records::read(dir)?;
    for warning in &records.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(records)
}
