//! `kaleid sweep`: DomainBed's protocol over many runs. A sweep is a folder with its plan, `sweep.json`, and one folder per job, named by
//! a hash of the job's arguments: the same hash as DomainBed's wherever the arguments are DomainBed's.
//!
//! ```text
//! mod.rs       the plan, its jobs in order, their folders
//! state.rs     where a job stands, and how it went
//! work.rs      runs jobs on this machine
//! claim.rs     a job is run by one process at a time
//! slurm.rs     the same on a cluster
//! records.rs   results of any sweep, ours or DomainBed's, read with care
//! select.rs    the three ways to choose among runs and checkpoints
//! published.rs what the paper printed
//! collect.rs   tables as DomainBed and the paper print them
//! table.rs     a table as text, LaTeX, Markdown or JSON
//! ```

pub mod claim;
pub mod collect;
pub mod published;
pub mod records;
pub mod select;
pub mod slurm;
pub mod state;
pub mod table;
pub mod work;

use crate::data::dataset::{Dataset, seed_hash};
use crate::data::{known, python, write_atomic};
use crate::domainbed::network::{Featurizer, Network, TrainNorm};
use crate::domainbed::{Setup, algorithm};
use crate::train::{self, Settings, Training, Variant};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use state::{Log, State};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

const PLAN: &str = "sweep.json";

/// What is to be run: `sweep.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Root of the data sets, whose folders have DomainBed's names.
    pub data_dir: PathBuf,
    /// Names of the data sets, each with the names of its domains.
    pub datasets: Vec<(String, Vec<String>)>,
    /// DomainBed's names.
    pub algorithms: Vec<String>,
    /// Which generated images join: each is a sweep of its own.
    pub variants: Vec<Variant>,
    /// Generated images of a data set, DOMAIN/CLASS/image, by its name.
    pub extra: BTreeMap<String, PathBuf>,
    /// Leave out the runs with two test domains, which only leave-one-domain-out validation needs.
    pub single_test_envs: bool,
    /// Number of splits.
    pub trials: u64,
    /// Draws of the hyper-parameters.
    pub hparams_seeds: Range<u64>,
    /// The [`Settings`] that are not defaults, which all jobs share.
    pub train: Map<String, Value>,
}

/// One run: what is trained, and the arguments that name its folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// DomainBed's arguments, and those of ours that are not DomainBed's defaults.
    pub args: Map<String, Value>,
    /// The training.
    pub training: Training,
    /// Number of the data set's own domains.
    pub domains: usize,
}

impl Sweep {
    /// Reads the plan in `folder`.
    ///
    /// # Errors
    /// No plan there; a file that is none.
    pub fn open(folder: &Path) -> Result<Sweep> {
        let file = folder.join(PLAN);
        let text = std::fs::read(&file)
            .with_context(|| format!("{}: no sweep here; `kaleid sweep plan` makes one", file.display()))?;
        serde_json::from_slice(&text)
            .map_err(|e| anyhow::anyhow!("{}: no plan of a sweep ({e}); plan it again", file.display()))
    }

    /// Writes the plan into `folder`. It may extend one that is there, but not leave out jobs that have started: their results would
    /// be counted with those of this plan.
    ///
    /// # Errors
    /// Jobs that would be left out; a folder that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let own: HashSet<PathBuf> = self.jobs(folder)?.into_iter().map(|j| j.training.out).collect();
        let begun = |path: &PathBuf| ["train.json", "results.jsonl"].iter().any(|f| path.join(f).exists());
        let there = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
        let strange = there.filter(|path| begun(path) && !own.contains(path)).count();
        if strange > 0 {
            bail!(
                "{}: holds {strange} trainings that are not in this plan: choose another folder",
                folder.display()
            );
        }
        let file = folder.join(PLAN);
        write_atomic(&file, (serde_json::to_string_pretty(self)? + "\n").as_bytes())
    }

    /// Lists the domains of the data sets `names` below `data_dir`.
    ///
    /// # Errors
    /// A data set that is not there, or not whole.
    pub fn domains(data_dir: &Path, names: &[String]) -> Result<Vec<(String, Vec<String>)>> {
        let list = |name: &String| {
            let found = Dataset::open(data_folder(data_dir, name))?;
            Ok((name.clone(), found.domains.into_iter().map(|d| d.name).collect()))
        };
        names.iter().map(list).collect()
    }

    /// The jobs, in DomainBed's order: trial, data set, algorithm, variant, test domains (each alone, then with each later one), draw
    /// of the hyper-parameters. `folder` is that of the sweep.
    ///
    /// # Errors
    /// Settings of the plan that are not those of a training.
    pub fn jobs(&self, folder: &Path) -> Result<Vec<Job>> {
        let settings = Settings::from_changed(&self.train)
            .with_context(|| format!("{}: train", folder.join(PLAN).display()))?;
        // Made once: there may be tens of thousands of jobs, and defaults are parsed.
        let shared = Training { settings, ..Training::new("", "") };
        let mut jobs = vec![];
        for trial_seed in 0..self.trials {
            for (dataset, domains) in &self.datasets {
                for algorithm in &self.algorithms {
                    for &variant in &self.variants {
                        for test_envs in self.test_envs(domains.len()) {
                            for hparams_seed in self.hparams_seeds.clone() {
                                let [set, by] = [dataset, algorithm].map(|name| python::repr(name));
                                let text =
                                    format!("({set}, {by}, {test_envs:?}, {hparams_seed}, {trial_seed})");
                                let training = Training {
                                    data: data_folder(&self.data_dir, dataset),
                                    extra: self.extra.get(dataset).filter(|_| variant != Variant::O).cloned(),
                                    variant,
                                    test_domains: test_envs.iter().map(|&e| domains[e].clone()).collect(),
                                    algorithm: algorithm.clone(),
                                    hparams_seed,
                                    trial_seed,
                                    seed: seed_hash(&text),
                                    ..shared.clone()
                                };
                                let args = self.args(dataset, &test_envs, &training);
                                let out = folder.join(folder_name(&args));
                                let training = Training { out, ..training };
                                jobs.push(Job { args, training, domains: domains.len() });
                            }
                        }
                    }
                }
            }
        }
        Ok(jobs)
    }

    fn test_envs(&self, domains: usize) -> Vec<Vec<usize>> {
        let pairs = |i| (i + 1..domains).filter(|_| !self.single_test_envs).map(move |j| vec![i, j]);
        (0..domains).flat_map(|i| std::iter::once(vec![i]).chain(pairs(i))).collect()
    }

    fn args(&self, dataset: &str, test_envs: &[usize], training: &Training) -> Map<String, Value> {
        let mut args = self.train.clone();
        if !training.settings.hparams.is_empty() {
            args.insert("hparams".into(), python::json(&training.settings.hparams).into());
        }
        if training.variant != Variant::O {
            args.insert("variant".into(), training.variant.name().into());
            args.insert("extra".into(), json!(training.extra));
        }
        for (name, value) in [
            ("algorithm", json!(training.algorithm)),
            ("data_dir", json!(self.data_dir)),
            ("dataset", json!(dataset)),
            ("holdout_fraction", json!(training.settings.holdout_fraction)),
            ("hparams_seed", json!(training.hparams_seed)),
            ("seed", json!(training.seed)),
            ("task", json!("domain_generalization")),
            ("test_envs", json!(test_envs)),
            ("trial_seed", json!(training.trial_seed)),
        ] {
            args.insert(name.into(), value);
        }
        args
    }
}

/// DomainBed's name of the folder of a job with these arguments.
pub fn folder_name(args: &Map<String, Value>) -> String {
    format!("{:x}", md5::compute(python::json(args)))
}

/// What people call a job: `PACS sketch ERM qd, hparams 3, trial 0`.
pub fn label(training: &Training) -> String {
    format!(
        "{} {} {} {}, hparams {}, trial {}",
        known::name_of(&training.data),
        training.test_domains.join("+"),
        training.algorithm,
        training.variant.name(),
        training.hparams_seed,
        training.trial_seed
    )
}

fn data_folder(data_dir: &Path, dataset: &str) -> PathBuf {
    data_dir.join(known::named(dataset).map_or(dataset, |k| k.folder))
}

/// The jobs whose arguments alone make them fail, each with the reason: a hyper-parameter that does not exist, an algorithm that needs
/// more domains.
pub fn refused(jobs: &[Job]) -> Vec<(usize, anyhow::Error)> {
    let check = |job: &Job| -> Result<()> {
        let training = &job.training;
        let hparams = training.drawn_hparams()?;
        // New domains join the training ones, or take their places.
        let variant = training.variant;
        let known = variant.has_originals() || variant.has_styles();
        let known = if known { job.domains - training.test_domains.len() } else { 0 };
        let new = if variant.has_new() { 1 } else { 0 };
        let corrected = training.settings.fixed.contains(&training.algorithm);
        let envs = known + new;
        let setup = Setup { hparams: &hparams, preset: training.settings.preset, corrected, envs };
        train::average_from(training, &*algorithm(&training.algorithm, &setup)?)?;
        Ok(())
    };
    jobs.iter().enumerate().filter_map(|(i, job)| Some((i, check(job).err()?))).collect()
}

/// What a sweep costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Seconds that one adapter needs for all unfinished jobs; none, if no job has finished to estimate from.
    pub seconds: Option<f64>,
    /// Bytes of the models of all jobs.
    pub bytes: Option<u64>,
}

/// The cost of `jobs`: each takes `seconds_per_job`, or else the mean of finished jobs of its algorithm, or else of all finished jobs.
pub fn cost(jobs: &[Job], seconds_per_job: Option<f64>) -> Cost {
    let mut measured: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut left = vec![];
    for job in jobs {
        match State::of(&job.training.out) {
            State::Done => {
                let seconds = Log::read(&job.training.out).seconds;
                measured
                    .entry(&job.training.algorithm)
                    .or_default()
                    .extend((seconds > 0.0).then_some(seconds));
            }
            _ => left.push(job.training.algorithm.as_str()),
        }
    }
    let mean = |of: Vec<f64>| (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64);
    let any = mean(measured.values().flatten().copied().collect());
    let one =
        |algorithm| seconds_per_job.or_else(|| measured.get(algorithm).and_then(|s| mean(s.clone()))).or(any);
    Cost {
        seconds: left.into_iter().map(one).sum(),
        // They share their network.
        bytes: jobs.first().and_then(|job| Some(jobs.len() as u64 * model_bytes(&job.training.settings)?)),
    }
}

/// Bytes of a trained network, except its classifier; none, if there is no such network.
pub fn model_bytes(settings: &Settings) -> Option<u64> {
    let (mode, stem) = (TrainNorm::Frozen, settings.stem().ok()?);
    let featurizer = Featurizer::named(settings.arch(), settings.size, settings.width, stem, mode).ok()?;
    let network = Network { featurizer, classes: 1, nonlinear: false, f16_activations: false };
    Some(network.featurizer_tensors(settings.size).values().map(|&n| 4 * n as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Sweep {
        Sweep {
            data_dir: "/data".into(),
            datasets: vec![(
                "PACS".into(),
                ["art_painting", "cartoon", "photo", "sketch"].map(String::from).to_vec(),
            )],
            algorithms: vec!["ERM".into()],
            variants: vec![Variant::O],
            extra: BTreeMap::new(),
            single_test_envs: false,
            trials: 3,
            hparams_seeds: 0..20,
            train: Map::new(),
        }
    }

    #[test]
    fn folders_are_domainbeds() {
        let jobs = sweep().jobs(Path::new("s")).unwrap();
        assert_eq!(jobs.len(), 600);
        let text = r#"{"algorithm": "ERM", "data_dir": "/data", "dataset": "PACS", "holdout_fraction": 0.2, "hparams_seed": 0, "seed": 94828300, "task": "domain_generalization", "test_envs": [0], "trial_seed": 0}"#;
        assert_eq!(python::json(&jobs[0].args), text);
        assert_eq!(jobs[0].training.out, Path::new("s/7358bc3c867a56585b37a848f2aaa0c1"));
        assert_eq!(jobs[0].training.data, Path::new("/data/PACS"));
        assert_eq!(jobs[0].training.test_domains, ["art_painting"]);
    }

    #[test]
    fn order_is_domainbeds() {
        let short = Sweep { hparams_seeds: 0..1, trials: 1, ..sweep() };
        let envs = |sweep: &Sweep| -> Vec<Value> {
            sweep.jobs(Path::new("")).unwrap().iter().map(|j| j.args["test_envs"].clone()).collect()
        };
        assert_eq!(
            json!(envs(&short)),
            json!([[0], [0, 1], [0, 2], [0, 3], [1], [1, 2], [1, 3], [2], [2, 3], [3]])
        );
        assert_eq!(json!(envs(&Sweep { single_test_envs: true, ..short })), json!([[0], [1], [2], [3]]));
    }

    #[test]
    fn what_is_ours_is_hashed_only_where_it_is_used() {
        let mut plan = Sweep { variants: vec![Variant::O, Variant::Qd], ..sweep() };
        plan.extra.insert("PACS".into(), "/images".into());
        plan.train = Settings { width: 4, ..Settings::default() }.changed().unwrap();
        assert_eq!(json!(plan.train), json!({"width": 4}));
        let jobs = plan.jobs(Path::new("s")).unwrap();
        assert_eq!((&jobs[0].args["width"], jobs[0].args.get("variant")), (&json!(4), None));
        let qd = jobs.iter().find(|j| j.training.variant == Variant::Qd).unwrap();
        assert_eq!((&qd.args["variant"], &qd.args["extra"]), (&json!("qd"), &json!("/images")));
        // The same draws, so that variants differ by their images alone.
        assert_eq!((qd.training.seed, qd.training.settings.width), (jobs[0].training.seed, 4));
        let wrong = Sweep { train: json!({"widht": 4}).as_object().unwrap().clone(), ..plan };
        assert!(format!("{:#}", wrong.jobs(Path::new("s")).unwrap_err()).contains("widht"));
    }

    #[test]
    fn disk_is_that_of_the_models() {
        // torchvision's ResNet-50: 25,557,032 parameters with its classifier of 1000 classes, and 53,120 running statistics.
        let bytes = model_bytes(&Settings::default()).unwrap();
        assert_eq!(bytes, 4 * (25_557_032 - 2_049_000 + 53_120));
    }
}
