//! The plans that update.

use super::algorithm::Algorithm;
use super::draws::{Batch, Draws, Values};
use super::samples::Rows;
use super::saving::Saving;
use super::spec::{AVERAGE, Spec};
use super::step::{Filler, Step, filled_name};
use crate::core::{
    DType, Gpu, Graph, Init, Later, Memory, Needs, OutOfMemory, Param, Plan, Store, plan, torch_shape,
};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

/// The updates of an algorithm, ready to be replayed.
pub struct Trainer {
    turns: Vec<Turn>,
    algorithm: Box<dyn Algorithm>,
    envs: usize,
    seed: u64,
    average_from: Option<u32>,
    saving: Saving,
}

/// One kind of update.
struct Turn {
    plan: Plan,
    logged: Vec<&'static str>,
    fillers: Vec<Filler>,
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
        let (saving, turns) = with_saving(spec, |saving| {
            let turns = (0..algorithm.turns())
                .map(|turn| Recorded::new(store.gpu(), &*algorithm, spec, turn, saving)?.load(store, &init));
            turns.collect::<Result<Vec<_>>>()
        })?;
        let (envs, seed, average_from) = (spec.envs, spec.seed, spec.average_from);
        Ok(Trainer { turns, algorithm, envs, seed, average_from, saving })
    }

    /// What an update will take, without taking it: records updates as [`Trainer::new`] does, and asks `check` of each parameter, by
    /// name and torch's shape. Where kinds of updates take turns, the largest memory and the mean of the operations.
    ///
    /// # Errors
    /// Too little device memory; an error of `check`.
    pub fn needs(
        gpu: &Gpu,
        algorithm: &dyn Algorithm,
        spec: &Spec,
        check: impl Fn(&str, &[usize]) -> Result<()>,
    ) -> Result<Needs> {
        let (_, turns) = with_saving(spec, |saving| {
            let turns = (0..algorithm.turns()).map(|turn| Recorded::new(gpu, algorithm, spec, turn, saving));
            turns.collect::<Result<Vec<_>>>()
        })?;
        turns
            .iter()
            .flat_map(|turn| &turn.params)
            .try_for_each(|p| check(&p.name, &torch_shape(p.tensor.shape())))?;
        let memory = turns.iter().map(|turn| turn.needs.memory).max_by_key(Memory::total).unwrap_or_default();
        let flops = turns.iter().map(|turn| turn.needs.flops).sum::<f64>() / turns.len() as f64;
        Ok(Needs { memory, flops })
    }

    /// Begins the average anew with the weights after `step`.
    pub fn average_anew(&mut self, step: u32) {
        self.average_from = Some(step + 1);
    }

    /// What is recomputed so that the update fits.
    pub fn saving(&self) -> Saving {
        self.saving
    }

    /// Says what each sample of the steps to come counts in the cross entropy, (E B), where the spec says that they do not count alike.
    ///
    /// # Errors
    /// A device that fails.
    pub fn weigh(&mut self, weights: &[f32]) -> Result<()> {
        self.turns.iter_mut().try_for_each(|turn| turn.plan.write("weights", weights))
    }

    /// Hands one update to the device and returns before it is done. Logged numbers are those of the steps from `since` on.
    ///
    /// # Errors
    /// A device that fails.
    pub fn step(&mut self, step: u32, x: Rows, y: &[u32], since: u32) -> Result<()> {
        self.step_with(step, x, y, since, &mut Draws::Seeded { next: 0 })
    }

    /// [`Trainer::step`] with other random numbers.
    ///
    /// # Errors
    /// A device that fails; a recording that does not fit.
    pub fn step_with(&mut self, step: u32, x: Rows, y: &[u32], since: u32, draws: &mut Draws) -> Result<()> {
        let algorithm = &*self.algorithm;
        let number = algorithm.turn(step);
        let first = !(since..step).any(|s| algorithm.turn(s) == number);
        let Turn { plan, fillers, .. } = &mut self.turns[number];
        x.write(plan)?;
        plan.write_u32("y", y)?;
        plan.write("count", &[algorithm.adam_step(step) as f32])?;
        plan.write("keep", &[if first { 0.0 } else { 1.0 }])?;
        if let Some(from) = self.average_from {
            // Before, the average is the parameters themselves.
            let averaged = (step + 1).saturating_sub(from) as f32;
            plan.write("average rate", &[averaged / (averaged + 1.0)])?;
        }
        let (envs, seed) = (self.envs, self.seed);
        let mut batch = Batch { step, envs, size: y.len() / envs, labels: y, seed, draws };
        let mut filled = 0;
        for fill in fillers {
            for values in fill(&mut batch)? {
                match values {
                    Values::F32(values) => plan.write(&filled_name(filled), &values)?,
                    Values::U32(values) => plan.write_u32(&filled_name(filled), &values)?,
                }
                filled += 1;
            }
        }
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

/// What `plan` makes with as little recomputed as the device's memory allows.
fn with_saving<T>(spec: &Spec, mut plan: impl FnMut(Saving) -> Result<T>) -> Result<(Saving, T)> {
    let savings = Saving::all(spec.network, spec.recompute, spec.envs, spec.envs * spec.batch);
    let mut tried = savings.into_iter().peekable();
    loop {
        let saving = tried.next().context("no way to record the update")?;
        match plan(saving) {
            Err(e) if e.downcast_ref::<OutOfMemory>().is_some() && tried.peek().is_some() => {}
            done => return Ok((saving, done?)),
        }
    }
}

/// One kind of update, seen to fit the device; no parameter has a value yet.
struct Recorded {
    graph: Graph,
    logged: Vec<&'static str>,
    fillers: Vec<Filler>,
    params: Vec<Param>,
    needs: Needs,
}

impl Recorded {
    fn new(
        gpu: &Gpu,
        algorithm: &dyn Algorithm,
        spec: &Spec,
        turn: usize,
        saving: Saving,
    ) -> Result<Recorded> {
        let g = Graph::new(gpu.caps());
        let step = Step::new(&g, spec, turn, saving);
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
        let needs = plan::check(gpu, &g)?;
        let params = step.w.params();
        let fillers = step.into_fillers();
        Ok(Recorded { graph: g, logged: values.iter().map(|v| v.0).collect(), fillers, params, needs })
    }

    /// The update over the parameters in `store`; those that it lacks get the values of `init`.
    fn load(
        self,
        store: &mut Store,
        init: impl Fn(&str, &[usize], Option<usize>) -> Result<Vec<f32>>,
    ) -> Result<Turn> {
        let (held, params) = (store.names(), &self.params);
        for Param { name, tensor, .. } in params.iter().filter(|p| !held.contains(&p.name)) {
            let shape = torch_shape(tensor.shape());
            // Of a bias, that of its weight.
            let weight = name.strip_suffix("bias").map_or(name.clone(), |layer| format!("{layer}weight"));
            let weight = params.iter().find(|p| p.name == weight).filter(|p| p.tensor.rank() > 1);
            let fan_in = weight.map(|p| p.tensor.len() / p.tensor.dim(0));
            store.write(name, &shape, &init(name, &shape, fan_in)?)?;
        }
        let plan = Plan::new(&store.gpu().clone(), self.graph, store)?;
        Ok(Turn { plan, logged: self.logged, fillers: self.fillers })
    }
}
