//! The plans of a run: one that updates, one that predicts.

use super::hparams::Hparams;
use super::network::Network;
use super::samples::{Rows, Samples};
use super::{Algorithm, Predict, Step};
use crate::core::{
    DType, Gpu, Graph, Init, Later, Memory, OutOfMemory, Plan, Store, Tensor, Weights, plan, torch_shape,
};
use crate::data::rng::Key;
use crate::models::resnet::is_parameter;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a run trains.
pub struct Spec<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its hyper-parameters and the algorithm's.
    pub hparams: &'a Hparams,
    /// The kind of samples.
    pub samples: &'a Samples,
    /// Number of training environments.
    pub envs: usize,
    /// Samples of each in a step.
    pub batch: usize,
    /// Seed of every draw.
    pub seed: u64,
    /// The step from which on the parameters are averaged; the average predicts.
    pub average_from: Option<u32>,
    /// Bytes of device memory that training may take; what the adapter has, by default.
    pub memory: Option<usize>,
    /// Compute blocks again instead of keeping them, even if there is memory.
    pub recompute: bool,
}

/// What is done again so that less is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// The featurizer takes the rows of a pass in so many parts, one after the other, and each again for the backward pass. Where
    /// samples see one another, the parts are those that do. So the numbers are the same, whatever the algorithm does with the features.
    pub parts: usize,
    /// What is inside a residual block is made again for the backward pass.
    pub recompute: bool,
}

impl Saving {
    /// From keeping everything (or from `recompute`, where that is asked for) to what takes least memory.
    fn all(network: &Network, recompute: bool, envs: usize, rows: usize) -> Vec<Saving> {
        let mut all = vec![Saving { parts: 1, recompute }];
        if network.sees_batches() {
            all.extend([1, envs].map(|parts| Saving { parts, recompute: true }));
        } else {
            let parts = std::iter::successors(Some(2), |p| Some(2 * p)).take_while(|&p| p <= rows);
            all.extend(parts.map(|parts| Saving { parts, recompute }));
            all.push(Saving { parts: rows, recompute: true });
        }
        all.dedup();
        all
    }
}

impl std::fmt::Display for Saving {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.parts {
            1 => {}
            parts => write!(f, "the samples of a pass in {parts} parts")?,
        }
        if self.recompute {
            f.write_str(if self.parts > 1 { ", and " } else { "" })?;
            f.write_str("blocks computed again for the backward pass")?;
        }
        Ok(())
    }
}

/// What the average of a parameter is called in the store.
pub const AVERAGE: &str = "average.";

/// A minibatch, for an algorithm that fills its inputs.
pub struct Batch<'a> {
    /// The step, from 0 on.
    pub step: u32,
    /// Number of training environments.
    pub envs: usize,
    /// Samples of each.
    pub size: usize,
    /// Labels of all samples.
    pub labels: &'a [u32],
    draws: &'a mut Draws,
    plan: &'a mut Plan,
}

/// Where random numbers come from.
pub enum Draws {
    /// Functions of (seed, step, number of the draw).
    Seeded {
        /// The run's seed.
        seed: u64,
        /// Draws of this step so far.
        next: u32,
    },
    /// What upstream drew in one step, in order.
    Recorded(VecDeque<Draw>),
}

/// One draw of upstream's.
#[derive(Clone, Debug)]
pub enum Draw {
    /// Numbers below n in random order.
    Permutation(Vec<usize>),
    /// A beta variate.
    Beta(f32),
    /// A number below n.
    Integer(usize),
    /// Uniform numbers in [0, 1).
    Uniform(Vec<f32>),
    /// Normal numbers.
    Normal(Vec<f32>),
}

impl Batch<'_> {
    /// Fills the input `name`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.plan.write(name, values)
    }

    /// Fills an input of whole numbers.
    ///
    /// # Errors
    /// A device that fails.
    pub fn write_u32(&mut self, name: &str, values: &[u32]) -> Result<()> {
        self.plan.write_u32(name, values)
    }

    /// The numbers below `n` in random order.
    ///
    /// # Errors
    /// A recording that holds something else here, as for all draws.
    pub fn permutation(&mut self, n: usize) -> Result<Vec<usize>> {
        match self.draw() {
            Ok(key) => Ok(key.permutation(n)),
            Err(Some(Draw::Permutation(order))) if order.len() == n => Ok(order),
            Err(other) => unexpected(other, &format!("a permutation of {n}")),
        }
    }

    /// A number below `n`.
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn below(&mut self, n: usize) -> Result<usize> {
        match self.draw() {
            Ok(key) => Ok(key.below(0, n as u32) as usize),
            Err(Some(Draw::Integer(value))) if value < n => Ok(value),
            Err(other) => unexpected(other, &format!("a number below {n}")),
        }
    }

    /// A number of the distribution Beta(alpha, alpha).
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn beta(&mut self, alpha: f64) -> Result<f32> {
        match self.draw() {
            Ok(key) => Ok(key.beta(alpha)),
            Err(Some(Draw::Beta(value))) => Ok(value),
            Err(other) => unexpected(other, "a beta variate"),
        }
    }

    /// `n` uniform numbers in [0, 1).
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn uniforms(&mut self, n: usize) -> Result<Vec<f32>> {
        match self.draw() {
            Ok(key) => Ok((0..n as u32).map(|i| key.uniform(i)).collect()),
            Err(Some(Draw::Uniform(values))) if values.len() == n => Ok(values),
            Err(other) => unexpected(other, &format!("{n} uniform numbers")),
        }
    }

    /// `n` normal numbers.
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn normals(&mut self, n: usize) -> Result<Vec<f32>> {
        match self.draw() {
            Ok(key) => Ok((0..n as u32).map(|i| key.normal(i)).collect()),
            Err(Some(Draw::Normal(values))) if values.len() == n => Ok(values),
            Err(other) => unexpected(other, &format!("{n} normal numbers")),
        }
    }

    /// The key of the next draw, or what was recorded.
    fn draw(&mut self) -> Result<Key, Option<Draw>> {
        match self.draws {
            Draws::Seeded { seed, next } => {
                *next += 1;
                Ok(Key::new(*seed, self.step, &format!("draw {next}")))
            }
            Draws::Recorded(draws) => Err(draws.pop_front()),
        }
    }
}

fn unexpected<T>(found: Option<Draw>, wanted: &str) -> Result<T> {
    bail!("the recording has {found:?} where {wanted} is drawn")
}

/// Name of the input that holds the key of the `i`-th dropout mask.
pub(super) fn mask_key(i: usize) -> String {
    format!("dropout {i}")
}

/// The updates of an algorithm, ready to be replayed.
pub struct Trainer {
    turns: Vec<Turn>,
    algorithm: Box<dyn Algorithm>,
    envs: usize,
    seed: u64,
    average_from: Option<u32>,
    saving: Saving,
}

struct Turn {
    plan: Plan,
    logged: Vec<&'static str>,
    masks: usize,
}

impl Trainer {
    /// Records and plans the updates. Parameters that the store lacks get the values that `init` gives for their name, torch's shape
    /// and the number of inputs that an output of their layer has, if it is one of weights and biases.
    ///
    /// # Errors
    /// No device memory; an error of `init`.
    pub fn new(
        store: &mut Store,
        algorithm: Box<dyn Algorithm>,
        spec: &Spec,
        init: impl Fn(&str, &[usize], Option<usize>) -> Result<Vec<f32>>,
    ) -> Result<Trainer> {
        let savings = Saving::all(spec.network, spec.recompute, spec.envs, spec.envs * spec.batch);
        let (envs, seed, average_from) = (spec.envs, spec.seed, spec.average_from);
        let mut tried = savings.into_iter().peekable();
        loop {
            let saving = tried.next().context("no way to record the update")?;
            let all = 0..algorithm.turns();
            let turns = all.map(|turn| Turn::new(store, &*algorithm, spec, turn, saving, &init));
            match turns.collect::<Result<Vec<_>>>() {
                Ok(turns) => return Ok(Trainer { turns, algorithm, envs, seed, average_from, saving }),
                Err(e) if e.downcast_ref::<OutOfMemory>().is_some() && tried.peek().is_some() => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Begins the average anew with the weights after `step`.
    pub fn average_anew(&mut self, step: u32) {
        self.average_from = Some(step + 1);
    }

    /// What is done again so that the update fits.
    pub fn saving(&self) -> Saving {
        self.saving
    }

    /// Hands one update to the device and returns before it is done. Logged numbers are those of the steps from `since` on.
    ///
    /// # Errors
    /// A device that fails.
    pub fn step(&mut self, step: u32, x: Rows, y: &[u32], since: u32) -> Result<()> {
        self.step_with(step, x, y, since, &mut Draws::Seeded { seed: self.seed, next: 0 })
    }

    /// [`Trainer::step`] with other random numbers.
    ///
    /// # Errors
    /// A device that fails; a recording that does not fit.
    pub fn step_with(&mut self, step: u32, x: Rows, y: &[u32], since: u32, draws: &mut Draws) -> Result<()> {
        let algorithm = &*self.algorithm;
        let number = algorithm.turn(step);
        let first = !(since..step).any(|s| algorithm.turn(s) == number);
        let Turn { plan, masks, .. } = &mut self.turns[number];
        x.write(plan)?;
        plan.write_u32("y", y)?;
        plan.write("count", &[algorithm.adam_step(step) as f32])?;
        plan.write("keep", &[if first { 0.0 } else { 1.0 }])?;
        for i in 0..*masks {
            let name = mask_key(i);
            plan.write_u32(&name, &Key::new(self.seed, step, &name).0)?;
        }
        if let Some(from) = self.average_from {
            // Before, the average is the parameters themselves.
            let averaged = (step + 1).saturating_sub(from) as f32;
            plan.write("average rate", &[averaged / (averaged + 1.0)])?;
        }
        let size = y.len() / self.envs;
        algorithm.inputs(&mut Batch { step, envs: self.envs, size, labels: y, draws, plan })?;
        if step > 0 && algorithm.adam_resets().contains(&step) {
            plan.clear_states(|name| name.ends_with(".exp_avg") || name.ends_with(".exp_avg_sq"));
        }
        plan.run()
    }

    /// Names of all logged numbers.
    pub fn names(&self) -> Vec<&'static str> {
        self.turns
            .iter()
            .flat_map(|turn| turn.logged.iter().copied())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Number of the steps from `since` to before `end` that logged `name`.
    pub fn count(&self, name: &str, since: u32, end: u32) -> usize {
        let logs = |s: &u32| self.turns[self.algorithm.turn(*s)].logged.contains(&name);
        (since..end).filter(logs).count()
    }

    /// Means of the logged numbers over the steps from `since` to before `end`, each over those that gave it. Waits for the device.
    ///
    /// # Errors
    /// As [`Logged::wait`].
    pub fn logged(&self, since: u32, end: u32) -> Result<BTreeMap<&'static str, f32>> {
        self.logged_later(since, end).wait()
    }

    /// [`Trainer::logged`] without waiting: steps may follow, and add up anew.
    pub fn logged_later(&self, since: u32, end: u32) -> Logged {
        let mut sums = vec![];
        for (number, turn) in self.turns.iter().enumerate() {
            let count = (since..end).filter(|&s| self.algorithm.turn(s) == number).count();
            let logged = turn.logged.iter().filter(|_| count > 0);
            sums.extend(logged.map(|&name| (name, count, turn.plan.read_later(name))));
        }
        Logged(sums)
    }

    /// Device memory that the plans take together.
    pub fn memory(&self) -> usize {
        let each = self.turns.iter().map(|turn| turn.plan.memory());
        let state = each.clone().map(|m| m.state).max().unwrap_or(0);
        state + each.map(|m| m.input + m.activation).sum::<usize>()
    }
}

/// Logged numbers on their way to the host: name, number of steps, sum.
pub struct Logged(Vec<(&'static str, usize, Later)>);

impl Logged {
    /// Whether [`Logged::wait`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|(_, _, sum)| sum.is_ready())
    }

    /// Their means.
    ///
    /// # Errors
    /// A device that failed; a number that is not finite.
    pub fn wait(&self) -> Result<BTreeMap<&'static str, f32>> {
        let mut out = BTreeMap::new();
        for (name, count, sum) in &self.0 {
            let mean = sum.wait()?[0] / *count as f32;
            if !mean.is_finite() {
                bail!("the {name} is {mean}: training diverged; lower the learning rate");
            }
            out.insert(*name, mean);
        }
        Ok(out)
    }
}

impl Turn {
    fn new(
        store: &mut Store,
        algorithm: &dyn Algorithm,
        spec: &Spec,
        turn: usize,
        saving: Saving,
        init: impl Fn(&str, &[usize], Option<usize>) -> Result<Vec<f32>>,
    ) -> Result<Turn> {
        let gpu = store.gpu().clone();
        let g = Graph::new(gpu.caps());
        let rows = spec.envs * spec.batch;
        let step = Step {
            g: &g,
            w: Weights::new(&g, DType::F32),
            network: spec.network,
            x: spec.samples.input(&g, rows),
            y: g.input("y", &[rows], DType::U32),
            envs: spec.envs,
            turn,
            hparams: spec.hparams,
            count: g.input("count", &[1], DType::F32),
            masks: 0.into(),
            saving,
        };
        let values = algorithm.update(&step);
        let keep = g.input("keep", &[1], DType::F32);
        for (name, value) in &values {
            let sum = g.state(&format!("log.{name}"), &[1], DType::F32, Init::Zeros);
            g.output(name, g.assign(sum, g.add(g.mul(sum, keep), *value)));
        }
        if spec.average_from.is_some() {
            let rate = g.input("average rate", &[1], DType::F32);
            for (name, t) in step.named_params() {
                let average = g.state(&format!("{AVERAGE}{name}"), t.shape(), DType::F32, Init::Zeros);
                g.ema(average, t, rate);
            }
        }
        plan::check(&gpu, &g)?;
        let memory = Memory::of(&g);
        if let Some(limit) = spec.memory.filter(|&limit| memory.total() > limit) {
            let text = format!(
                "a step needs {memory}, and may take {} MiB: choose a smaller size or batch, or more --memory",
                limit >> 20
            );
            return Err(OutOfMemory(text).into());
        }
        let held = store.names();
        let params = step.w.params();
        for (name, t) in params.iter().filter(|p| !held.contains(&p.0)) {
            let shape = torch_shape(t.shape());
            // Of a bias, that of its weight.
            let weight = name.strip_suffix("bias").map_or(name.clone(), |layer| format!("{layer}weight"));
            let weight = params.iter().find(|p| p.0 == weight).filter(|p| p.1.rank() > 1);
            let fan_in = weight.map(|(_, t)| t.len() / t.dim(0));
            store.write(name, &shape, &init(name, &shape, fan_in)?)?;
        }
        let masks = step.masks.get();
        drop(step);
        let plan = Plan::new(&gpu, g, store)?;
        Ok(Turn { plan, logged: values.iter().map(|v| v.0).collect(), masks })
    }
}

/// The trained network as it predicts.
pub struct Predictor {
    plan: Plan,
    rows: usize,
}

impl Predictor {
    /// Plans the prediction for `batch` samples, over the parameters in `store` or their average.
    ///
    /// # Errors
    /// No device memory.
    pub fn new(store: &Store, algorithm: &dyn Algorithm, spec: &Spec, batch: usize) -> Result<Predictor> {
        let gpu: &Gpu = store.gpu();
        let g = Graph::new(gpu.caps());
        let (x, key) = (spec.samples.input(&g, batch), g.input("key", &[4], DType::U32));
        let w = Weights::new(&g, DType::F32);
        let mut predict = Predict { g: &g, w: w.clone(), network: spec.network, x, key };
        let mut logits = algorithm.predict(&predict);
        if spec.average_from.is_some() {
            let average = |(name, t): (String, Tensor)| {
                let average = g.state(&format!("{AVERAGE}{name}"), t.shape(), DType::F32, Init::Loaded);
                (name, average)
            };
            let moved = w.params().into_iter().filter(|(name, _)| is_parameter(name));
            predict.w = w.overlay(moved.map(average).collect());
            logits = algorithm.predict(&predict);
        }
        drop(predict);
        g.output("logits", logits);
        let plan = Plan::new(gpu, g, store)?;
        Ok(Predictor { plan, rows: batch })
    }

    /// Samples of one batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Hands one batch to the device, with the key of what is random in the prediction.
    ///
    /// # Errors
    /// A device that fails.
    pub fn run(&mut self, x: Rows, key: Key) -> Result<()> {
        x.write(&mut self.plan)?;
        self.plan.write_u32("key", &key.0)?;
        self.plan.run()
    }

    /// Logits (batch, classes) of the last run. Waits for the device.
    ///
    /// # Errors
    /// A device that failed.
    pub fn logits(&self) -> Result<Vec<f32>> {
        self.plan.read("logits")
    }
}
