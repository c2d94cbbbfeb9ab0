//! `kaleid sweep plan`

use crate::commands::train::say_random;
use anyhow::{Context, Result, bail};
use kaleid::data::checkpoint::Checkpoint;
use kaleid::data::chosen::left_out;
use kaleid::data::dataset::Dataset;
use kaleid::domainbed::{PAPER, check_name};
use kaleid::hub;
use kaleid::sweep::state::State;
use kaleid::sweep::{Job, Sweep, cost, label, refused, slurm};
use kaleid::train::{Settings, Variant};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Folder of the sweep
    dir: PathBuf,
    /// Root of the data sets: PACS, VLCS, office_home, terra_incognita, domain_net, sviro, or folders of your own
    #[arg(long, value_name = "ROOT")]
    data_dir: PathBuf,
    /// PACS, VLCS, OfficeHome, TerraIncognita, DomainNet, SVIRO, or names of your own folders
    #[arg(long, num_args = 1.., required = true, value_name = "NAME")]
    datasets: Vec<String>,
    /// Algorithms, by DomainBed's names
    #[arg(long, num_args = 1.., default_values_t = PAPER.map(String::from), value_name = "NAME")]
    algorithms: Vec<String>,
    /// Which generated images join: o none, q those in the styles of training domains, d those of new domains, qd both
    #[arg(long, num_args = 1.., value_enum, default_values = ["o"], hide_possible_values = true)]
    variants: Vec<Variant>,
    /// Generated images, DOMAIN/CLASS/image: DIR, or NAME=DIR for each data set
    #[arg(long, num_args = 1.., value_name = "[NAME=]DIR")]
    extra: Vec<String>,
    /// Only one test domain at a time, without the pairs that leave-one-domain-out validation needs
    #[arg(long)]
    single_test_envs: bool,
    /// Number of splits into training and validation images
    #[arg(long, value_name = "N", default_value_t = 3)]
    n_trials: u64,
    /// Number of draws of the hyper-parameters; the first are the defaults
    #[arg(long, value_name = "N", default_value_t = 20)]
    n_hparams: u64,
    /// First draw to run
    #[arg(long, value_name = "N", default_value_t = 0)]
    n_hparams_from: u64,
    /// How long a job takes, for the estimate; finished jobs tell by themselves
    #[arg(long, value_name = "SECONDS")]
    seconds_per_job: Option<f64>,
    /// Also write a script for sbatch: an array with one task per job
    #[arg(long)]
    slurm: bool,
    /// Most tasks that run at the same time
    #[arg(long, default_value_t = 8, value_name = "N", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..))]
    throttle: u32,
    /// An option for sbatch, such as --slurm-option=--partition=gpu; may be given again
    #[arg(long, value_name = "OPTION", requires = "slurm", allow_hyphen_values = true)]
    slurm_option: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
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
    let mut settings = args.settings.clone();
    say_random(&settings);
    settings.weights = settings.weights.as_deref().map(|file| absolute(&hub::path(file)?)).transpose()?;
    if let Some(weights) = &settings.weights {
        Checkpoint::open(weights).context("--weights")?;
    }
    let data_dir = absolute(&args.data_dir)?;
    let sweep = Sweep {
        datasets: Sweep::domains(&data_dir, &args.datasets)?,
        extra: extra(&args.extra, &args.datasets)?,
        data_dir,
        algorithms: args.algorithms.clone(),
        variants: args.variants.clone(),
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

    tell(&sweep, &jobs, &dir, &args)?;
    if args.slurm {
        let throttle = args.throttle as usize;
        for file in slurm::write(&dir.canonicalize()?, jobs.len(), throttle, &args.slurm_option)? {
            say!("sbatch {}", file.display())?;
        }
    }
    Ok(())
}

/// Says what is planned, and what it costs.
fn tell(sweep: &Sweep, jobs: &[Job], dir: &Path, args: &Args) -> Result<()> {
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
    let cost = cost(jobs, args.seconds_per_job);
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
    Ok(())
}

/// A path that means the same from anywhere, as it was typed where it can be: it is part of the hashes.
fn absolute(path: &Path) -> Result<PathBuf> {
    let whole = if path.is_absolute() { path.into() } else { std::path::absolute(path)? };
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
        folders.insert(name.to_string(), absolute(Path::new(dir))?);
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
            Dataset::added(folder, &Dataset::open(&job.training.data)?.classes, &left_out(folder, &[])?)?;
        }
    }
    Ok(())
}
