//! From a graph to something that runs: dead code dropped, buffers given to live ranges, pipelines compiled, bind groups made.
//! A plan is then replayed: a run only encodes the same dispatches again.

use super::gpu::{Class, Download, Gpu, OutOfMemory, Pipeline, debug_level};
use super::graph::{DType, Graph, Inner, Kind, Tensor};
use super::profile::{Profile, Row};
use super::store::Store;
use anyhow::{Context, Result, bail};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every step's numbers lie in one buffer, a slice of this many bytes each (the alignment every device takes).
const PARAM_SLICE: usize = 256;

/// A compiled graph over the tensors of a [`Store`].
pub struct Plan {
    gpu: Gpu,
    steps: Vec<Step>,
    /// Steps after which a submit ends.
    submits: Vec<usize>,
    inputs: HashMap<String, (Tensor, wgpu::Buffer)>,
    states: Vec<(String, wgpu::Buffer)>,
    outputs: HashMap<String, (Tensor, wgpu::Buffer)>,
    memory: Memory,
    runs: usize,
    in_flight: Vec<wgpu::SubmissionIndex>,
}

struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    kernel: String,
    scope: Rc<str>,
    flops: f64,
    bytes: usize,
}

/// Bytes of device memory that a plan uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Parameters and other states, shared with other plans of the same store.
    pub state: usize,
    /// Inputs and constants.
    pub input: usize,
    /// Intermediate results at their peak: what buffer sharing leaves of `unshared`.
    pub activation: usize,
    /// Intermediate results if nothing were shared.
    pub unshared: usize,
}

impl Memory {
    /// What has to be there at once.
    pub fn total(&self) -> usize {
        self.state.saturating_add(self.input).saturating_add(self.activation)
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mib = |b: usize| b as f64 / (1 << 20) as f64;
        let (state, input, activation) = (mib(self.state), mib(self.input), mib(self.activation));
        write!(
            f,
            "{:.1} MiB = states {state:.1} + inputs {input:.1} + activations {activation:.1} ({:.1} unshared)",
            state + input + activation,
            mib(self.unshared)
        )
    }
}

/// What the planner decides before any memory is taken.
struct Layout {
    /// Nodes that some output or state needs, in order.
    live: Vec<usize>,
    /// Shared buffer of each tensor that a live node makes.
    slot: HashMap<usize, usize>,
    /// Bytes of each shared buffer.
    slots: Vec<usize>,
    /// Root tensors that live nodes or outputs use.
    used: HashSet<usize>,
}

impl Layout {
    fn new(inner: &Inner) -> Self {
        let root = |id: usize| inner.root(id);
        let is_state = |id: usize| matches!(inner.tensors[root(id)].1, Kind::State(..));
        let outputs: HashSet<usize> = inner.outputs.iter().map(|(_, t)| root(t.id)).collect();

        // Backwards: a node lives if it updates a state, or makes an output or an input of a living node.
        let mut needed: HashSet<usize> =
            inner.outputs.iter().map(|(_, t)| t.id).chain(outputs.clone()).collect();
        let mut live = Vec::new();
        for (n, node) in inner.nodes.iter().enumerate().rev() {
            if node.outputs.iter().any(|&o| is_state(o) || needed.contains(&o)) {
                live.push(n);
                for &id in &node.inputs {
                    needed.insert(id);
                    needed.insert(root(id));
                }
            }
        }
        live.reverse();

        // Forwards: the last node that reads each tensor frees its buffer.
        let mut last = HashMap::new();
        let mut used: HashSet<usize> = outputs.clone();
        for &n in &live {
            let node = &inner.nodes[n];
            for &id in node.inputs.iter().chain(&node.outputs) {
                last.insert(root(id), n);
                used.insert(root(id));
            }
        }

        // Whole buffers are shared, best fit first: outputs are placed before inputs are freed, so that no dispatch aliases.
        let (mut slot, mut slots, mut free) = (HashMap::new(), Vec::<usize>::new(), Vec::<usize>::new());
        for &n in &live {
            let node = &inner.nodes[n];
            for &id in node.outputs.iter().filter(|&&id| !is_state(id)) {
                let bytes = inner.tensors[id].0.bytes();
                let fits = |&&s: &&usize| slots[s] >= bytes && slots[s] <= 2 * bytes.max(4096);
                let chosen = free.iter().filter(fits).min_by_key(|&&s| slots[s]).copied();
                let chosen = chosen.unwrap_or_else(|| {
                    slots.push(bytes);
                    slots.len() - 1
                });
                free.retain(|&s| s != chosen);
                slot.insert(id, chosen);
            }
            let mut ended: Vec<usize> = node.inputs.iter().chain(&node.outputs).map(|&id| root(id)).collect();
            ended.sort_unstable();
            ended.dedup();
            for id in ended {
                if last[&id] == n && !outputs.contains(&id) {
                    free.extend(slot.get(&id));
                }
            }
        }
        Layout { live, slot, slots, used }
    }

    fn memory(&self, inner: &Inner) -> Memory {
        let add = |to: &mut usize, bytes| *to = to.saturating_add(bytes);
        let mut memory = Memory::default();
        self.slots.iter().for_each(|&bytes| add(&mut memory.activation, bytes));
        for &id in &self.used {
            let (t, kind) = &inner.tensors[id];
            match kind {
                Kind::State(..) => add(&mut memory.state, t.bytes()),
                Kind::Input(_) | Kind::Constant(_) => add(&mut memory.input, t.bytes()),
                Kind::Made => add(&mut memory.unshared, t.bytes()),
                Kind::Alias(_) => unreachable!("roots are no aliases"),
            }
        }
        memory
    }
}

/// An output on its way to the host.
pub struct Later(Download);

impl Later {
    /// Whether [`Later::wait`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    /// The numbers.
    ///
    /// # Errors
    /// A device that failed.
    pub fn wait(&self) -> Result<Vec<f32>> {
        self.0.wait().map(|bytes| bytemuck::pod_collect_to_vec(&bytes))
    }
}

/// Device memory that running `graph` takes, without taking it.
pub fn memory(graph: &Graph) -> Memory {
    let inner = graph.inner.borrow();
    Layout::new(&inner).memory(&inner)
}

/// Refuses a graph that the adapter cannot hold: before its weights are read, or made up.
///
/// # Errors
/// A tensor that the adapter's limits do not allow; more memory than there is.
pub fn check(gpu: &Gpu, graph: &Graph) -> Result<()> {
    let inner = graph.inner.borrow();
    countable(gpu, &inner)?;
    let layout = Layout::new(&inner);
    let memory = layout.memory(&inner);
    let tensors = layout.used.iter().map(|id| &inner.tensors[*id]);
    let kept = tensors.filter_map(|(t, kind)| match kind {
        Kind::State(name, _) | Kind::Input(name) => Some((name.as_str(), t.bytes())),
        _ => None,
    });
    for (name, bytes) in kept.chain(layout.slots.iter().map(|&bytes| ("an intermediate result", bytes))) {
        gpu.allows(name, bytes).with_context(|| format!("the plan needs {memory}"))?;
    }
    fits(gpu, &memory, memory.total())
}

/// Refuses sizes that kernels cannot count.
fn countable(gpu: &Gpu, inner: &Inner) -> Result<()> {
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
        let inner = graph.inner.into_inner();
        let layout = Layout::new(&inner);
        let memory = layout.memory(&inner);
        if debug_level() >= 1 {
            let flops: f64 = layout.live.iter().map(|&n| inner.nodes[n].flops).sum();
            eprintln!(
                "plan: {} of {} dispatches live, {:.2} GFLOP, {memory}",
                layout.live.len(),
                inner.nodes.len(),
                flops / 1e9
            );
        }
        let label = |id: usize| {
            let node = inner.nodes.iter().find(|n| n.outputs.contains(&id));
            node.map_or("an output".into(), |n| {
                format!("{} of '{}' ({:?})", n.kernel.name(), n.scope, inner.tensors[id].0)
            })
        };
        let owner = |slot: usize| layout.slot.iter().find(|(_, s)| **s == slot).map_or(0, |(&id, _)| id);
        countable(gpu, &inner)?;
        fits(gpu, &memory, memory.input.saturating_add(memory.activation))?;
        let shared = (0..layout.slots.len())
            .map(|s| gpu.buffer(&label(owner(s)), layout.slots[s]))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("the plan needs {memory}"))?;

        let mut buffers: HashMap<usize, wgpu::Buffer> = HashMap::new();
        let (mut inputs, mut states) = (HashMap::new(), vec![]);
        let mut used: Vec<usize> = layout.used.iter().copied().collect();
        used.sort_unstable();
        for id in used {
            let (t, kind) = &inner.tensors[id];
            let buffer = match kind {
                Kind::State(name, init) => {
                    let buffer = store.bind(name, t, *init)?;
                    states.push((name.clone(), buffer.clone()));
                    buffer
                }
                Kind::Input(name) => {
                    let buffer =
                        gpu.buffer(name, t.bytes()).with_context(|| format!("the plan needs {memory}"))?;
                    inputs.insert(name.clone(), (*t, buffer.clone()));
                    buffer
                }
                Kind::Constant(data) => {
                    let buffer = gpu.buffer("constant", t.bytes())?;
                    gpu.queue().write_buffer(&buffer, 0, data);
                    buffer
                }
                Kind::Made => shared[layout.slot[&id]].clone(),
                Kind::Alias(_) => unreachable!("roots are no aliases"),
            };
            buffers.insert(id, buffer);
        }
        // An input that nothing reads may still be written.
        for (t, kind) in &inner.tensors {
            if let Kind::Input(name) = kind
                && !inputs.contains_key(name)
            {
                inputs.insert(name.clone(), (*t, gpu.buffer(name, t.bytes())?));
            }
        }

        compile_all(gpu, &inner, &layout);
        let params = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters of all steps"),
            size: (layout.live.len().max(1) * PARAM_SLICE) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut slices = vec![0u32; layout.live.len() * PARAM_SLICE / 4];
        for (slice, &n) in slices.chunks_exact_mut(PARAM_SLICE / 4).zip(&layout.live) {
            slice[..inner.nodes[n].params.len()].copy_from_slice(&inner.nodes[n].params);
        }
        gpu.queue().write_buffer(&params, 0, bytemuck::cast_slice(&slices));

        let mut steps = Vec::with_capacity(layout.live.len());
        for (i, &n) in layout.live.iter().enumerate() {
            let node = &inner.nodes[n];
            let pipeline = gpu.pipeline(&node.kernel, node.inputs.len(), node.outputs.len());
            let ids = || node.inputs.iter().chain(&node.outputs).copied();
            let slice = wgpu::BufferBinding {
                buffer: &params,
                offset: (i * PARAM_SLICE) as u64,
                size: std::num::NonZeroU64::new(PARAM_SLICE as u64),
            };
            let entries: Vec<_> = std::iter::once(wgpu::BindingResource::Buffer(slice))
                .chain(ids().map(|id| buffers[&inner.root(id)].as_entire_binding()))
                .enumerate()
                .map(|(binding, resource)| wgpu::BindGroupEntry { binding: binding as u32, resource })
                .collect();
            let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            });
            steps.push(Step {
                pipeline,
                bind_group,
                grid: node.grid,
                kernel: node.kernel.name(),
                scope: node.scope.clone(),
                flops: node.flops,
                bytes: ids().map(|id| inner.tensors[id].0.bytes()).sum(),
            });
        }
        gpu.check(|| "making a plan".into())?;

        let outputs = inner
            .outputs
            .iter()
            .map(|(name, t)| (name.clone(), (*t, buffers[&inner.root(t.id)].clone())))
            .collect();
        let submits = split(steps.iter().map(|s| (s.flops, s.bytes)), gpu.caps().class.gflops());
        Ok(Plan {
            gpu: gpu.clone(),
            steps,
            submits,
            inputs,
            states,
            outputs,
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
        let seconds = match self.gpu.caps().timestamps {
            true => self.timestamps()?,
            false => self.submit_and_wait()?,
        };
        let mut profile = Profile::default();
        for (s, seconds) in self.steps.iter().zip(seconds) {
            profile.add(&s.kernel, &s.scope, Row { calls: 1, seconds, flops: s.flops, bytes: s.bytes });
        }
        self.gpu.check(|| self.place(0))?;
        Ok(profile)
    }

    fn submit_and_wait(&self) -> Result<Vec<f64>> {
        self.gpu.wait()?;
        let time = |step: &Step| {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            step.encode(&mut encoder.begin_compute_pass(&Default::default()));
            let start = std::time::Instant::now();
            self.gpu.queue().submit([encoder.finish()]);
            self.gpu.wait()?;
            Ok(start.elapsed().as_secs_f64())
        };
        self.steps.iter().map(time).collect()
    }

    fn timestamps(&self) -> Result<Vec<f64>> {
        const CHUNK: usize = 1024; // a query set holds at most 4096 timestamps
        let device = self.gpu.device();
        let mut seconds = Vec::with_capacity(self.steps.len());
        for steps in self.steps.chunks(CHUNK) {
            let count = 2 * steps.len() as u32;
            let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let resolved = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: 8 * count as u64,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            for (i, step) in steps.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some(&step.kernel),
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * i as u32),
                        end_of_pass_write_index: Some(2 * i as u32 + 1),
                    }),
                });
                step.encode(&mut pass);
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            self.gpu.queue().submit([encoder.finish()]);
            let ticks: Vec<u64> =
                bytemuck::pod_collect_to_vec(&self.gpu.download(&resolved, 8 * count as usize)?);
            let period = self.gpu.queue().get_timestamp_period() as f64 * 1e-9;
            seconds.extend(ticks.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
        }
        Ok(seconds)
    }
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

/// Ends of the submits: none is estimated to run longer than 100 ms, since Windows resets a GPU that is busy for 2 s.
fn split(steps: impl Iterator<Item = (f64, usize)>, gflops: f64) -> Vec<usize> {
    let (mut ends, mut count, mut seconds) = (vec![], 0, 0.0);
    for (flops, bytes) in steps {
        let estimate = (flops + bytes as f64) / (gflops * 1e9);
        if seconds > 0.0 && seconds + estimate > 0.1 {
            ends.push(count);
            seconds = 0.0;
        }
        seconds += estimate;
        count += 1;
    }
    if count > 0 {
        ends.push(count);
    }
    ends
}

/// Refuses a plan that would make a machine swap: a software adapter has the host's memory and takes more than there is. What
/// other adapters have, no interface tells: they say no when a buffer is made. `more`: bytes of the plan that are not taken yet.
fn fits(gpu: &Gpu, memory: &Memory, more: usize) -> Result<()> {
    let Some(available) = host_memory().filter(|_| gpu.caps().class == Class::Software) else {
        return Ok(());
    };
    if more as u64 > available {
        let text = format!(
            "the plan needs {memory}, and this machine has {} MiB left: choose a smaller size or batch, or f16 weights",
            available >> 20
        );
        return Err(OutOfMemory(text).into());
    }
    Ok(())
}

/// Bytes of memory that Linux says are available.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// Compiles every pipeline that the live nodes need and that is not there yet, on all cores where the adapter can.
fn compile_all(gpu: &Gpu, inner: &Inner, layout: &Layout) {
    let mut seen = HashSet::new();
    let kernels: Vec<_> = layout
        .live
        .iter()
        .map(|&n| &inner.nodes[n])
        .map(|n| (&n.kernel, n.inputs.len(), n.outputs.len()))
        .filter(|k| seen.insert(*k))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((kernel, inputs, outputs)) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            gpu.pipeline(kernel, *inputs, *outputs);
        }
    };
    if gpu.caps().parallel_compile {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(kernels.len());
        std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    } else {
        work();
    }
    gpu.save_cache();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::GpuOptions;

    #[test]
    fn submits_end_before_100_ms_and_hold_at_least_one_step() {
        // At 1 GFLOP/s, so 40, 40, 40, 500 and 10 ms.
        let steps = [4e7, 4e7, 4e7, 5e8, 1e7].map(|flops| (flops, 0));
        assert_eq!(split(steps.into_iter(), 1.0), [2, 3, 4, 5]);
        assert_eq!(split([(0.0, 4); 1000].into_iter(), 1.0), [1000]);
        assert!(split([].into_iter(), 1.0).is_empty());
    }

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
