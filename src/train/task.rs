//! What a run trains, as far as settings and file names tell: hyper-parameters, network, algorithm.

use super::environments::{Env, environments_with};
use super::settings::Training;
use crate::core::{Gpu, Needs, OutOfMemory, Store};
use crate::data::checkpoint::Checkpoint;
use crate::data::dataset::{Dataset, Domain, Item};
use crate::data::packed::packed_words;
use crate::domainbed::hparams::{Hparams, Preset};
use crate::domainbed::network::{Featurizer, Network, TrainNorm};
use crate::domainbed::predictor::Predictor;
use crate::domainbed::samples::Samples;
use crate::domainbed::trainer::Trainer;
use crate::domainbed::{self, Algorithm, Setup, Spec};
use crate::hub;
use crate::progress;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Images of one prediction, where the device has room for them; DomainBed's number.
const EVAL_BATCH: usize = 64;
/// Names of tensors that a line shows.
const SHOWN: usize = 4;

/// What is trained.
pub struct Task<'a> {
    pub settings: &'a Training,
    pub dataset: &'a Dataset,
    pub hparams: Hparams,
    pub network: Network,
    /// Samples that a step takes from each training environment.
    pub batch: usize,
    /// Number of training environments.
    envs: usize,
    /// The step from which on the weights are averaged.
    average_from: Option<u32>,
    /// What the featurizer starts from.
    weights: Option<Checkpoint>,
    /// DomainBed's arguments and ours, as results record them.
    pub args: Map<String, Value>,
}

impl<'a> Task<'a> {
    /// The task that `settings` describe for these environments.
    ///
    /// # Errors
    /// Names, hyper-parameters or sizes that do not fit.
    pub fn new(settings: &'a Training, dataset: &'a Dataset, environments: &[Env]) -> Result<Task<'a>> {
        let envs = environments.iter().filter(|e| e.trained()).count();
        let (hparams, batch) = hyper_parameters(settings, envs)?;
        check_batch(environments, batch)?;
        if settings.synthetic_share.is_some() && hparams.bool("class_balanced") {
            bail!("--synthetic-share, and class_balanced in --hparams: choose one");
        }
        // Random weights need statistics of the batch; pretrained ones keep theirs, as DomainBed's papers do.
        let frozen = settings.weights.is_some() && settings.preset != Preset::Dbhead;
        let mode = if frozen { TrainNorm::Frozen } else { TrainNorm::Live };
        let network = Network {
            featurizer: Featurizer::named(
                settings.arch(),
                settings.size,
                settings.width,
                settings.stem()?,
                mode,
            )?,
            classes: dataset.classes.len(),
            nonlinear: hparams.bool("nonlinear_classifier"),
            f16_activations: settings.f16_activations,
        };
        if envs * batch < 2 && network.sees_batches() {
            bail!("a batch of one sample has no variance: batch normalisation needs more");
        }
        let weights =
            settings.weights.as_ref().map(|file| weights(file, &network, settings.size)).transpose()?;
        let args = settings.arguments(dataset)?;
        let mut task =
            Task { settings, dataset, hparams, network, batch, envs, average_from: None, weights, args };
        task.average_from = average_from(settings, &*task.algorithm()?)?;
        Ok(task)
    }

    fn algorithm(&self) -> Result<Box<dyn Algorithm>> {
        let name = &self.settings.algorithm;
        // The setting is named after the flag --fixed, and sweeps hash that name.
        let corrected = self.settings.fixed.contains(name);
        let setup =
            Setup { hparams: &self.hparams, preset: self.settings.preset, corrected, envs: self.envs };
        domainbed::algorithm(name, &setup)
    }

    fn spec<'s>(&'s self, samples: &'s Samples) -> Spec<'s> {
        Spec {
            network: &self.network,
            hparams: &self.hparams,
            samples,
            envs: self.envs,
            batch: self.batch,
            weighted: self.settings.synthetic_weight.is_some(),
            seed: self.settings.seed,
            average_from: self.average_from,
            recompute: self.settings.recompute,
        }
    }

    /// What an update takes; sees that the weights hold what the network wants and that the device has room, without reading an image
    /// or a number.
    ///
    /// # Errors
    /// Weights of another network; no device memory.
    pub fn needs(&self, gpu: &Gpu) -> Result<Needs> {
        let size = self.settings.size;
        // The sizes of images are not known yet: those that are larger than seen only fill more of the input.
        let samples = Samples::Pictures { size, words: packed_words([size, size], size) };
        let featurizer = self.network.featurizer_tensors(size);
        Trainer::needs(gpu, &*self.algorithm()?, &self.spec(&samples), |name, shape| match &self.weights {
            Some(weights) if featurizer.contains_key(name) => weights.check(name, shape),
            _ => Ok(()),
        })
    }

    /// Plans the updates of the parameters in `store`; those that it lacks start from weights or at random.
    ///
    /// # Errors
    /// Weights that do not fit; no device memory.
    pub fn trainer(&self, store: &mut Store, samples: &Samples) -> Result<Trainer> {
        let featurizer = self.network.featurizer_tensors(self.settings.size);
        let init = |name: &str, shape: &[usize], fan_in| match &self.weights {
            // A pretrained classifier is for other classes, and what an algorithm adds was never trained.
            Some(weights) if featurizer.contains_key(name) => weights.f32(name, shape),
            _ => Ok(self.network.initial(name, shape, fan_in, self.settings.seed)),
        };
        Trainer::new(store, self.algorithm()?, &self.spec(samples), init)
    }

    /// Plans the largest prediction that the device has room for, by the weights as they are or by what is averaged of them.
    ///
    /// # Errors
    /// No device memory.
    pub fn predictor(&self, store: &Store, samples: &Samples, averaged: bool) -> Result<Predictor> {
        let spec = Spec { average_from: self.average_from.filter(|_| averaged), ..self.spec(samples) };
        let mut rows = EVAL_BATCH;
        loop {
            match Predictor::new(store, &*self.algorithm()?, &spec, rows) {
                Err(e) if rows > 1 && e.downcast_ref::<OutOfMemory>().is_some() => rows /= 2,
                done => return done,
            }
        }
    }

    /// train.json: everything the run depends on, down to which image is in which split.
    pub fn describe(&self, envs: &[Env]) -> Value {
        let roots = [Some(&self.settings.data), self.settings.extra.as_ref()];
        let file = |item: &Item| {
            let inside = roots.into_iter().flatten().find_map(|r| item.path.strip_prefix(r).ok());
            inside.unwrap_or(&item.path).display().to_string()
        };
        let env = |e: &Env| {
            let files = |split: &[usize]| split.iter().map(|&i| file(&e.items[i])).collect::<Vec<_>>();
            json!({"name": e.name, "test": e.test(), "in": files(&e.train), "out": files(&e.validation)})
        };
        let envs: Vec<Value> = envs.iter().map(env).collect();
        json!({"args": self.args, "hparams": self.hparams.0, "environments": envs})
    }
}

/// The weights in `file`, under the names of the network. Says what is left out of them.
fn weights(file: &Path, network: &Network, size: usize) -> Result<Checkpoint> {
    let featurizer = network.featurizer_tensors(size);
    let wanted: Vec<&str> = featurizer.keys().map(String::as_str).collect();
    let (checkpoint, prefix) = Checkpoint::open(hub::path(file)?)?.below_prefix(&wanted);
    let unused = |name: &&str| !featurizer.contains_key(*name) && !name.ends_with("num_batches_tracked");
    let left: Vec<&str> = checkpoint.names().filter(unused).collect();
    if !prefix.is_empty() || !left.is_empty() {
        let under = if prefix.is_empty() { String::new() } else { format!(", below {prefix}") };
        let some = left.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = if left.len() > SHOWN { ", .." } else { "" };
        let out = if left.is_empty() { String::new() } else { format!("; left out: {some}{more}") };
        progress::say(&format!("{}: {} tensors are read{under}{out}", checkpoint.name(), featurizer.len()));
    }
    checkpoint.remarks().iter().for_each(|remark| progress::say(remark));
    Ok(checkpoint)
}

/// The hyper-parameters, and the samples that a step takes from each of `envs` training environments.
fn hyper_parameters(settings: &Training, envs: usize) -> Result<(Hparams, usize)> {
    for name in [&settings.algorithm].into_iter().chain(&settings.fixed) {
        domainbed::check_name(name)?;
    }
    let mut hparams = settings.drawn_hparams()?;
    if let Some(total) = settings.total_batch {
        if total < envs {
            bail!("a total batch of {total} is less than one sample of each of {envs} training domains");
        }
        hparams.set("batch_size", json!(total / envs))?;
    }
    let batch = hparams.usize("batch_size");
    Ok((hparams, batch))
}

/// Sees that there will be enough to train on once the images `added` are painted.
///
/// # Errors
/// A domain with fewer images than a batch; a variant that adds nothing.
pub fn check_planned(settings: &Training, dataset: &Dataset, added: Vec<Domain>) -> Result<()> {
    let envs = environments_with(settings, dataset, added)?;
    let (_, batch) = hyper_parameters(settings, envs.iter().filter(|e| e.trained()).count())?;
    check_batch(&envs, batch)
}

/// Refuses a batch for which upstream would wait forever.
///
/// # Errors
/// A training environment with fewer images than a batch.
pub fn check_batch(envs: &[Env], batch: usize) -> Result<()> {
    for env in envs.iter().filter(|e| e.trained()) {
        let n = env.train.len();
        if batch > n {
            bail!(
                "domain {}: batch {batch} is larger than its {n} training images: choose a smaller batch",
                env.name
            );
        }
    }
    Ok(())
}

/// The step from which on the weights are averaged.
///
/// # Errors
/// SWAD together with an algorithm that averages them itself.
pub fn average_from(settings: &Training, algorithm: &dyn Algorithm) -> Result<Option<u32>> {
    let own = algorithm.average_from();
    if settings.swad && (own.is_some() || settings.average_from.is_some()) {
        let other = if own.is_some() { settings.algorithm.as_str() } else { "--average-from" };
        bail!("--swad and {other} both average the weights: choose one");
    }
    let given = if settings.swad { Some(0) } else { settings.average_from.map(|step| step as u32) };
    Ok(given.or(own))
}
