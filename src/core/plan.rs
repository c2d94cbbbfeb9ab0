//! From a graph to something that runs: memory taken as the layout says, pipelines compiled, bindings made. A plan is then
//! replayed: a run only encodes the same dispatches again.

use super::caps::Class;
use super::download::Later;
use super::dtype::DType;
use super::gpu::{Gpu, OutOfMemory};
use super::graph::{Graph, Inner, Kind};
use super::layout::{Layout, Memory, Needs};
use super::profile::{Profile, Row};
use super::scratch::Scratch;
use super::steps::{Step, split, steps, time};
use super::store::Store;
use super::tensor::Tensor;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::time::Instant;

/// A compiled graph over the tensors of a [`Store`].
pub struct Plan {
    gpu: Gpu,
    steps: Vec<Step>,
    /// Steps at which a submit ends.
    submits: Vec<usize>,
    inputs: HashMap<String, (Tensor, wgpu::Buffer)>,
    states: Vec<(String, wgpu::Buffer)>,
    outputs: HashMap<String, (Tensor, wgpu::Buffer)>,
    memory: Memory,
    runs: usize,
    in_flight: Vec<wgpu::SubmissionIndex>,
}

/// The buffers of a plan: of each storage, and by name.
#[derive(Default)]
struct Buffers {
    of: HashMap<usize, wgpu::Buffer>,
    inputs: HashMap<String, (Tensor, wgpu::Buffer)>,
    states: Vec<(String, wgpu::Buffer)>,
}

impl Buffers {
    fn new(gpu: &Gpu, inner: &Inner, layout: &Layout, store: &Store, scratch: &Scratch) -> Result<Self> {
        let needs = || format!("the plan needs {}", layout.memory(inner));
        let shared = shared_buffers(gpu, inner, layout, scratch).with_context(needs)?;
        let mut buffers = Buffers::default();
        let mut used: Vec<usize> = layout.used.iter().copied().collect();
        used.sort_unstable();
        for id in used {
            let (t, kind) = &inner.tensors[id];
            let buffer = match kind {
                Kind::State(name, init) => {
                    let buffer = store.bind(name, t, *init)?;
                    buffers.states.push((name.clone(), buffer.clone()));
                    buffer
                }
                Kind::Input(name) => buffers.input(gpu, name, t).with_context(needs)?,
                Kind::Constant(data) => {
                    let buffer = gpu.buffer("constant", t.bytes())?;
                    gpu.queue().write_buffer(&buffer, 0, data);
                    buffer
                }
                Kind::Made => shared[layout.slot[&id]].clone(),
                Kind::Alias(_) => unreachable!("roots are no aliases"),
            };
            buffers.of.insert(id, buffer);
        }
        // An input that nothing reads may still be written.
        for (t, kind) in &inner.tensors {
            if let Kind::Input(name) = kind
                && !buffers.inputs.contains_key(name)
            {
                buffers.input(gpu, name, t)?;
            }
        }
        Ok(buffers)
    }

    fn input(&mut self, gpu: &Gpu, name: &str, t: &Tensor) -> Result<wgpu::Buffer> {
        let buffer = gpu.buffer(name, t.bytes())?;
        self.inputs.insert(name.to_string(), (*t, buffer.clone()));
        Ok(buffer)
    }
}

/// The buffers that intermediate results share. Each is labelled with the first that it holds, for errors.
fn shared_buffers(gpu: &Gpu, inner: &Inner, layout: &Layout, scratch: &Scratch) -> Result<Vec<wgpu::Buffer>> {
    let label = |slot: usize| {
        let id = layout.slot.iter().filter(|(_, s)| **s == slot).map(|(&id, _)| id).min()?;
        let node = inner.nodes.iter().find(|n| n.outputs.contains(&id))?;
        Some(format!("{} of '{}' ({:?})", node.kernel.name(), node.scope, inner.tensors[id].0))
    };
    let buffer =
        |slot: usize| scratch.buffer(gpu, slot, || label(slot).unwrap_or_else(|| "an output".into()));
    (0..layout.slots.len()).map(buffer).collect()
}

/// What a graph needs; refuses one that the adapter cannot hold: before its weights are read, or made up.
///
/// # Errors
/// A tensor that the adapter's limits do not allow; more memory than there is.
pub fn check(gpu: &Gpu, graph: &Graph) -> Result<Needs> {
    let inner = graph.inner.borrow();
    indexable(gpu, &inner)?;
    let layout = Layout::new(&inner);
    let Needs { memory, flops } = layout.needs(&inner);
    let tensors = layout.used.iter().map(|id| &inner.tensors[*id]);
    let kept = tensors.filter_map(|(t, kind)| match kind {
        Kind::State(name, _) | Kind::Input(name) => Some((name.as_str(), t.bytes())),
        _ => None,
    });
    for (name, bytes) in kept.chain(layout.slots.iter().map(|&bytes| ("an intermediate result", bytes))) {
        gpu.allows(name, bytes).with_context(|| format!("the plan needs {memory}"))?;
    }
    fits(gpu, &memory, memory.total())?;
    Ok(Needs { memory, flops })
}

/// Refuses sizes that kernels cannot index.
fn indexable(gpu: &Gpu, inner: &Inner) -> Result<()> {
    match &inner.too_large {
        Some(call) => {
            let text =
                format!("{call}, more than {} can: choose a smaller size or batch", gpu.caps().adapter);
            Err(OutOfMemory(text).into())
        }
        None => Ok(()),
    }
}

impl Plan {
    /// Plans `graph`: takes memory, compiles what is not compiled yet (in parallel), uploads constants.
    ///
    /// # Errors
    /// A tensor that the adapter's limits do not allow, no memory left, a parameter that was not loaded.
    pub fn new(gpu: &Gpu, graph: Graph, store: &Store) -> Result<Self> {
        Plan::sharing(gpu, graph, store, &Scratch::default())
    }

    /// [`Plan::new`] with buffers that other plans use too.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn sharing(gpu: &Gpu, graph: Graph, store: &Store, scratch: &Scratch) -> Result<Self> {
        let inner = graph.inner.into_inner();
        let layout = Layout::new(&inner);
        let Needs { memory, flops } = layout.needs(&inner);
        if super::debug_level() >= 1 {
            let (live, all) = (layout.live.len(), inner.nodes.len());
            eprintln!("plan: {live} of {all} dispatches live, {:.2} GFLOP, {memory}", flops / 1e9);
        }
        indexable(gpu, &inner)?;
        scratch.reserve(&layout.slots);
        fits(gpu, &memory, memory.input.saturating_add(scratch.missing()))?;
        let buffers = Buffers::new(gpu, &inner, &layout, store, scratch)?;
        let steps = steps(gpu, &inner, &layout.live, &buffers.of)?;
        gpu.check(|| "making a plan".into())?;

        let output =
            |(name, t): &(String, Tensor)| (name.clone(), (*t, buffers.of[&inner.root(t.id)].clone()));
        Ok(Plan {
            gpu: gpu.clone(),
            submits: split(steps.iter().map(|s| (s.flops, s.bytes)), gpu.rate()),
            steps,
            outputs: inner.outputs.iter().map(output).collect(),
            inputs: buffers.inputs,
            states: buffers.states,
            memory,
            runs: 0,
            in_flight: vec![],
        })
    }

    /// Device memory of this plan.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Dispatches of one run.
    pub fn dispatches(&self) -> usize {
        self.steps.len()
    }

    /// Floating point operations of one run.
    pub fn flops(&self) -> f64 {
        self.steps.iter().map(|s| s.flops).sum()
    }

    /// Bytes of the tensors that the dispatches of one run are given.
    pub fn bytes(&self) -> usize {
        self.steps.iter().map(|s| s.bytes).sum()
    }

    /// Fills the input `name`. It keeps its value until written again.
    #[track_caller]
    pub fn write(&mut self, name: &str, data: &[f32]) -> Result<()> {
        self.upload(name, DType::F32, data.len(), bytemuck::cast_slice(data))
    }

    /// Fills an input of whole numbers.
    #[track_caller]
    pub fn write_u32(&mut self, name: &str, data: &[u32]) -> Result<()> {
        self.upload(name, DType::U32, data.len(), bytemuck::cast_slice(data))
    }

    /// Fills the first elements of an input of whole numbers; the rest keep their values.
    #[track_caller]
    pub fn write_start(&mut self, name: &str, data: &[u32]) -> Result<()> {
        let length = self.inputs.get(name).map_or(0, |(t, _)| t.len());
        assert!(data.len() <= length, "input {name} has {length} elements, given {}", data.len());
        self.upload(name, DType::U32, length, bytemuck::cast_slice(data))
    }

    #[track_caller]
    fn upload(&mut self, name: &str, dtype: DType, len: usize, bytes: &[u8]) -> Result<()> {
        let Some((t, buffer)) = self.inputs.get(name) else { panic!("the plan has no input {name}") };
        assert!(t.len() == len && t.dtype() == dtype, "input {name} is {t:?}, given {len} x {dtype:?}");
        self.gpu.queue().write_buffer(buffer, 0, bytes);
        Ok(())
    }

    /// Fills the input `name` with the output `output` of the last run of another plan; both stay on the device.
    #[track_caller]
    pub fn copy(&mut self, name: &str, from: &Plan, output: &str) {
        let Some((t, buffer)) = self.inputs.get(name) else { panic!("the plan has no input {name}") };
        let Some((y, made)) = from.outputs.get(output) else { panic!("the plan has no output {output}") };
        assert!(t.shape() == y.shape() && t.dtype() == y.dtype(), "input {name} is {t:?}, given {y:?}");
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(made, 0, buffer, 0, t.bytes().next_multiple_of(4) as u64);
        self.gpu.queue().submit([encoder.finish()]);
    }

    /// Names of the states that runs read or write.
    pub fn states(&self) -> impl Iterator<Item = &str> {
        self.states.iter().map(|(name, _)| name.as_str())
    }

    /// Sets the states whose name `which` holds for to zeros, after the runs so far and before the next.
    pub fn clear_states(&mut self, which: impl Fn(&str) -> bool) {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        for (_, buffer) in self.states.iter().filter(|s| which(&s.0)) {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.gpu.queue().submit([encoder.finish()]);
    }

    /// Runs every step once. Returns when the work is handed over; reading waits for it.
    ///
    /// # Errors
    /// A lost device or another device error, naming the run and the step it was noticed at.
    pub fn run(&mut self) -> Result<()> {
        if self.gpu.is_profiling() && !self.steps.is_empty() {
            let profile = self.profile()?;
            self.gpu.add_profile(&profile);
            return Ok(());
        }
        self.runs += 1;
        let work = self.flops() + self.bytes() as f64;
        // The first run also compiles, with some drivers; what takes no time cannot be measured, and need not be cut.
        if self.runs == 2 && work / self.gpu.rate() > 0.02 {
            self.gpu.wait()?;
            let start = Instant::now();
            self.submit()?;
            self.gpu.wait()?;
            self.gpu.set_rate(work / start.elapsed().as_secs_f64());
            self.submits = split(self.steps.iter().map(|s| (s.flops, s.bytes)), self.gpu.rate());
            return Ok(());
        }
        self.submit()
    }

    /// Hands the steps over, some at a time.
    fn submit(&mut self) -> Result<()> {
        let mut start = 0;
        for &end in &self.submits {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for step in &self.steps[start..end] {
                    step.encode(&mut pass);
                }
            }
            let index = self.gpu.queue().submit([encoder.finish()]);
            self.in_flight.push(index);
            self.gpu.check(|| self.place(start))?;
            start = end;
        }
        // The host may be this many submits ahead: enough to keep the device busy, little enough to bound memory.
        let ahead = self.submits.len().max(2);
        while self.in_flight.len() > ahead {
            let oldest = self.in_flight.remove(0);
            let poll = wgpu::PollType::Wait { submission_index: Some(oldest), timeout: None };
            self.gpu.device().poll(poll).with_context(|| self.place(0))?;
            self.gpu.check(|| self.place(0))?;
        }
        Ok(())
    }

    fn place(&self, step: usize) -> String {
        let s = &self.steps[step.min(self.steps.len() - 1)];
        format!("run {}, from step {step} ({} at '{}') on", self.runs, s.kernel, s.scope)
    }

    /// The f32 output `name` of the last run.
    ///
    /// # Errors
    /// A device that failed.
    #[track_caller]
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.fetch(name, DType::F32).map(|bytes| bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The whole-number output `name` of the last run.
    ///
    /// # Errors
    /// A device that failed.
    #[track_caller]
    pub fn read_u32(&self, name: &str) -> Result<Vec<u32>> {
        self.fetch(name, DType::U32).map(|bytes| bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The f32 output `name` of the last run, later: returns before it is done, and runs may follow.
    #[track_caller]
    pub fn read_later(&self, name: &str) -> Later {
        let Some((t, buffer)) = self.outputs.get(name) else { panic!("the plan has no output {name}") };
        assert_eq!(t.dtype(), DType::F32, "output {name} is {t:?}");
        Later(self.gpu.download_later(buffer, t.bytes()))
    }

    #[track_caller]
    fn fetch(&self, name: &str, dtype: DType) -> Result<Vec<u8>> {
        let Some((t, buffer)) = self.outputs.get(name) else { panic!("the plan has no output {name}") };
        assert_eq!(t.dtype(), dtype, "output {name} is {t:?}");
        self.gpu
            .download(buffer, t.bytes())
            .with_context(|| format!("reading {name} after run {}", self.runs))
    }

    /// Runs once, timing each dispatch: by timestamps where the device has them, else by waiting after each.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn profile(&mut self) -> Result<Profile> {
        if self.steps.is_empty() {
            bail!("nothing to profile: the plan has no dispatch");
        }
        self.runs += 1;
        let mut profile = Profile::default();
        for (s, seconds) in self.steps.iter().zip(time(&self.gpu, &self.steps)?) {
            profile.add(&s.kernel, &s.scope, Row { calls: 1, seconds, flops: s.flops, bytes: s.bytes });
        }
        self.gpu.check(|| self.place(0))?;
        Ok(profile)
    }
}

/// Refuses a plan that takes more than `--memory` allows, or would make a machine swap: a software adapter has the host's memory and
/// takes more than there is. wgpu does not report other adapters' free memory; there, creating the buffer fails. `more`: bytes of the
/// plan that are not taken yet.
///
/// # Errors
/// [`OutOfMemory`].
pub fn fits(gpu: &Gpu, memory: &Memory, more: usize) -> Result<()> {
    let allowed = gpu.caps().memory.map(|bytes| (bytes, "--memory allows"));
    let free = host_memory().filter(|_| gpu.caps().class == Class::Software);
    let limits = allowed.into_iter().chain(free.map(|bytes| (bytes, "this machine has left")));
    match limits.min().filter(|(bytes, _)| more as u64 > *bytes) {
        None => Ok(()),
        Some((bytes, who)) => Err(OutOfMemory(format!(
            "the plan needs {memory}, and {who} {} MiB: choose a smaller size or batch, or f16 weights",
            bytes >> 20
        ))
        .into()),
    }
}

/// Bytes of memory that the operating system says are available, where it says so.
fn host_memory() -> Option<u64> {
    let ram = sysinfo::MemoryRefreshKind::nothing().with_ram();
    let system =
        sysinfo::System::new_with_specifics(sysinfo::RefreshKind::nothing().with_memory(ram)).ok()?;
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::GpuOptions;

    #[test]
    fn a_lost_device_is_an_error_that_names_the_step() {
        let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
        let g = Graph::new(gpu.caps());
        {
            let _scope = g.scope("tower");
            g.output("y", g.exp(g.input("x", &[8], DType::F32)));
        }
        let mut plan = Plan::new(&gpu, g, &Store::new(&gpu)).unwrap();
        plan.run().unwrap();
        gpu.device().destroy();
        let error = (0..3).find_map(|_| plan.run().err()).expect("a run on a lost device fails");
        let text = format!("{error:#}");
        assert!(text.contains("unary_forward") && text.contains("tower"), "{text}");
    }
}
