//! `kaleid sweep`

use super::train::say_random;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use kaleid::core::GpuOptions;
use kaleid::data::dataset::Dataset;
use kaleid::data::write_atomic;
use kaleid::domainbed::{PAPER, check_name};
use kaleid::progress::duration;
use kaleid::sweep::records::Records;
use kaleid::sweep::select::{Choice, Group, Method, groups, ranked};
use kaleid::sweep::table::Format;
use kaleid::sweep::work::{Log, run_job, run_jobs};
use kaleid::sweep::{Job, State, Sweep, collect, cost, label, refused, slurm};
use kaleid::train::{Settings, Variant};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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

#[derive(Subcommand)]
enum Command {
    /// Write down what is to be run, and say what it costs
    Plan(Box<Plan>),
    /// Run the jobs that are not done; again, it goes on where it was
    Run(Run),
    /// Count jobs by algorithm and state, and say what failed
    Status(Status),
    /// Print tables of accuracies, and write them into the folder
    Collect(Collect),
    /// Rank hyper-parameters by validation accuracy
    Best(Best),
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    match args.command {
        Command::Plan(args) => plan(*args),
        Command::Run(args) => work(args, gpu),
        Command::Status(args) => status(&args),
        Command::Collect(args) => tables(&args),
        Command::Best(args) => best(&args),
    }
}

#[derive(clap::Args)]
struct Plan {
    /// Folder of the sweep
    dir: PathBuf,
    /// Root of the data sets: PACS, VLCS, office_home, terra_incognita, domain_net, sviro, or folders of your own
    #[arg(long, value_name = "ROOT")]
    data_dir: PathBuf,
    /// PACS, VLCS, OfficeHome, TerraIncognita, DomainNet, SVIRO, or names of your own folders
    #[arg(long, num_args = 1.., required = true, value_name = "NAME")]
    datasets: Vec<String>,
    /// Algorithms
    #[arg(long, num_args = 1.., default_values_t = PAPER.map(String::from), value_name = "NAME")]
    algorithms: Vec<String>,
    /// Which generated images join
    #[arg(long, num_args = 1.., value_enum, default_values = ["o"])]
    variants: Vec<Variant>,
    /// Generated images, DOMAIN/CLASS/image: DIR, or NAME=DIR for each data set
    #[arg(long, num_args = 1.., value_name = "[NAME=]DIR")]
    extra: Vec<String>,
    /// Only one test domain at a time, without the pairs that leave-one-domain-out validation needs
    #[arg(long)]
    single_test_envs: bool,
    /// Number of splits
    #[arg(long, default_value_t = 3)]
    n_trials: u64,
    /// Draws of the hyper-parameters; the first is the defaults
    #[arg(long, default_value_t = 20)]
    n_hparams: u64,
    /// First draw
    #[arg(long, default_value_t = 0)]
    n_hparams_from: u64,
    /// How long a job takes, where none is done that could tell
    #[arg(long, value_name = "SECONDS")]
    seconds_per_job: Option<f64>,
    /// Also write a script for sbatch: an array with a task a job
    #[arg(long)]
    slurm: bool,
    /// Most tasks that run at a time
    #[arg(long, default_value_t = 8, value_name = "N", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..))]
    throttle: u32,
    /// An option for sbatch, such as --slurm-option=--partition=gpu; may be given again
    #[arg(long, value_name = "OPTION", requires = "slurm", allow_hyphen_values = true)]
    slurm_option: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

fn plan(args: Plan) -> Result<()> {
    let dir = std::path::absolute(&args.dir)?;
    for name in &args.algorithms {
        check_name(name)?;
    }
    if args.n_trials == 0 || args.n_hparams <= args.n_hparams_from {
        bail!("--n-trials {} and --n-hparams {} leave nothing to run", args.n_trials, args.n_hparams);
    }
    if let Some(seconds) = args.seconds_per_job.filter(|s| !(s.is_finite() && *s >= 0.0)) {
        bail!("--seconds-per-job {seconds}: it must be a number from 0");
    }
    let mut settings = args.settings;
    say_random(&settings);
    settings.weights = settings.weights.map(absolute).transpose()?;
    if let Some(weights) = settings.weights.as_ref().filter(|w| !w.is_file()) {
        bail!("--weights {}: no such file", weights.display());
    }
    let data_dir = absolute(args.data_dir)?;
    let sweep = Sweep {
        datasets: Sweep::domains(&data_dir, &args.datasets)?,
        extra: extra(&args.extra, &args.datasets)?,
        data_dir,
        algorithms: args.algorithms,
        variants: args.variants,
        single_test_envs: args.single_test_envs,
        trials: args.n_trials,
        hparams_seeds: args.n_hparams_from..args.n_hparams,
        train: settings.changed()?,
    };
    let jobs = sweep.jobs(&dir)?;
    check_extra(&sweep, &jobs)?;
    let refused = refused(&jobs);
    if let Some((i, error)) = refused.first() {
        let first = format!("{}: {error:#}", label(&jobs[*i].training));
        if refused.len() == jobs.len() {
            bail!("every job would fail, such as {first}");
        }
        eprintln!("warning: {} of {} jobs will fail, such as {first}", refused.len(), jobs.len());
    }
    sweep.write(&dir)?;

    say!("{}", dir.join("sweep.json").display())?;
    say!(
        "{} jobs (data sets: {}, algorithms: {}, variants: {}, draws of hyper-parameters: {}, splits: {}, test domains: {})",
        jobs.len(),
        sweep.datasets.len(),
        sweep.algorithms.len(),
        sweep.variants.len(),
        sweep.hparams_seeds.end - sweep.hparams_seeds.start,
        sweep.trials,
        if sweep.single_test_envs { "one at a time" } else { "alone and in pairs" }
    )?;
    let done = jobs.iter().filter(|j| State::of(&j.training.out) == State::Done).count();
    if done > 0 {
        say!("{done} of them are done")?;
    }
    let cost = cost(&jobs, args.seconds_per_job);
    match cost.seconds {
        Some(_) if done == jobs.len() => {}
        Some(seconds) => say!("time: about {:.1} hours of one adapter", seconds / 3600.0)?,
        None => say!(
            "time: unknown; run one job (`kaleid sweep run {} --job 0`) and plan again, or give --seconds-per-job",
            args.dir.display()
        )?,
    }
    if let Some(bytes) = cost.bytes {
        let [all, one] = [bytes, bytes / jobs.len() as u64].map(|b| b as f64 / 1e9);
        say!("disk: {all:.2} GB when all are done, {:.2} GB more for each that runs", 3.0 * one)?;
    }
    if args.slurm {
        let throttle = args.throttle as usize;
        for file in slurm::write(&dir.canonicalize()?, jobs.len(), throttle, &args.slurm_option)? {
            say!("sbatch {}", file.display())?;
        }
    }
    Ok(())
}

/// A path that means the same from anywhere, as it was typed where it can be: it is part of the hashes.
fn absolute(path: PathBuf) -> Result<PathBuf> {
    let whole = if path.is_absolute() { path } else { std::path::absolute(&path)? };
    whole.to_str().with_context(|| format!("{}: the path is not UTF-8", whole.display()))?;
    Ok(whole)
}

/// Folders of generated images by data set.
fn extra(given: &[String], datasets: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut folders = BTreeMap::new();
    for text in given {
        let (name, dir) = match (text.split_once('='), datasets) {
            (Some((name, dir)), _) if datasets.iter().any(|d| d == name) => (name, dir),
            (_, [one]) => (one.as_str(), text.as_str()),
            _ => bail!("--extra {text}: with several data sets it must be NAME=DIR, with one of their names"),
        };
        folders.insert(name.to_string(), absolute(dir.into())?);
    }
    Ok(folders)
}

/// Fails now, not in each of a thousand jobs, where generated images are missing.
fn check_extra(sweep: &Sweep, jobs: &[Job]) -> Result<()> {
    let Some(variant) = sweep.variants.iter().find(|v| **v != Variant::O) else { return Ok(()) };
    for (dataset, _) in &sweep.datasets {
        let Some(folder) = sweep.extra.get(dataset) else {
            bail!("variant {} of {dataset} needs --extra, the folder of generated images", variant.name());
        };
        let of = |job: &&Job| job.args["dataset"].as_str() == Some(dataset);
        if let Some(job) = jobs.iter().find(of) {
            Dataset::added(folder, &Dataset::open(&job.training.data)?.classes)?;
        }
    }
    Ok(())
}

#[derive(clap::Args)]
struct Run {
    /// Folder of the sweep
    dir: PathBuf,
    /// Adapters, by number or name, each with a worker of its own [default: the one that --adapter says]
    #[arg(long, value_delimiter = ',', value_name = "NAME|INDEX")]
    adapters: Vec<String>,
    /// Only this job, by its place in the plan, from 0
    #[arg(long, value_name = "N", conflicts_with = "adapters")]
    job: Option<usize>,
    /// Try jobs anew that failed
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
    let mut gpus: Vec<GpuOptions> =
        args.adapters.into_iter().map(|a| GpuOptions { adapter: Some(a), ..gpu.clone() }).collect();
    if gpus.is_empty() {
        gpus.push(gpu.clone());
    }
    let tally = run_jobs(&gpus, &trainings, args.retry_failed)?;
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
    /// How the tables are written: to standard output, and to results.txt, .tex, .md or .json in the folder
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The paper's tables 1 and 2, with its numbers beside ours, instead of DomainBed's tables
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

#[derive(clap::Args)]
struct Best {
    /// Folder of the sweep, ours or DomainBed's
    dir: PathBuf,
    /// Which accuracy decides
    #[arg(long, value_enum, default_value = "iid")]
    method: Method,
    /// Only this data set
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Only this algorithm
    #[arg(long, value_name = "NAME")]
    algorithm: Option<String>,
    /// Only this variant
    #[arg(long, value_enum)]
    variant: Option<Variant>,
    /// Only this test domain, by number
    #[arg(long, value_name = "N")]
    test_env: Option<usize>,
    /// Only this split
    #[arg(long, value_name = "N")]
    trial_seed: Option<u64>,
    /// Best ones shown of each split
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    /// Print only the best hyper-parameters, as `kaleid train --hparams` takes them
    #[arg(long, conflicts_with = "json")]
    hparams: bool,
}

fn best(args: &Best) -> Result<()> {
    let records = read(&args.dir)?;
    let mut all = groups(&records);
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|w| w == name);
    all.retain(|group, _| {
        is(&args.dataset, &group.dataset)
            && is(&args.algorithm, &group.algorithm)
            && args.variant.is_none_or(|v| v.name() == group.variant)
            && args.test_env.is_none_or(|e| e == group.test_env)
            && args.trial_seed.is_none_or(|t| t == group.trial_seed)
    });
    let originals = |group: &Group| records.originals(&group.dataset);
    let ranked = all.iter().map(|(g, of)| (g, ranked(args.method, of, g.test_env, originals(g))));
    let ranked: Vec<(&Group, Vec<Choice>)> = ranked.filter(|(_, choices)| !choices.is_empty()).collect();
    if ranked.is_empty() {
        bail!("{}: no results that this choice can be made from", args.dir.display());
    }
    if args.hparams {
        let same = |a: &Group, b: &Group| {
            Group { trial_seed: 0, ..a.clone() } == Group { trial_seed: 0, ..b.clone() }
        };
        if let Some((other, _)) = ranked.iter().find(|(g, _)| !same(g, ranked[0].0)) {
            bail!(
                "--hparams: there are {} and {}, which do not compare: choose by --dataset, --algorithm, --variant, --test-env",
                name(ranked[0].0),
                name(other)
            );
        }
        let firsts = ranked.iter().map(|(_, choices)| choices[0]);
        let best = firsts.reduce(|a, b| if b.validation > a.validation { b } else { a });
        return best.map_or(Ok(()), |b| say!("{}", Value::Object(b.record.hparams.clone())));
    }
    for (group, choices) in ranked {
        if !args.json {
            say!("{}, trial {}, by {}:", name(group), group.trial_seed, args.method.name())?;
        }
        for choice in choices.iter().take(args.top) {
            let r = choice.record;
            let hparams = Value::Object(r.hparams.clone());
            if args.json {
                let row = json!({"dataset": group.dataset, "algorithm": group.algorithm, "variant": group.variant,
                    "test_env": group.test_env, "trial_seed": group.trial_seed, "hparams_seed": r.hparams_seed,
                    "validation": choice.validation, "test": choice.test, "step": r.step, "folder": r.folder,
                    "hparams": hparams});
                say!("{row}")?;
            } else {
                let [validation, test] = [choice.validation, choice.test].map(|a| 100.0 * a);
                say!("  validation {validation:.1} %, test {test:.1} %, step {}, {}", r.step, r.folder)?;
                say!("    {hparams}")?;
            }
        }
    }
    Ok(())
}

/// `PACS ERM qd, test domain 3`.
fn name(group: &Group) -> String {
    format!("{} {} {}, test domain {}", group.dataset, group.algorithm, group.variant, group.test_env)
}
