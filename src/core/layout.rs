//! The planner: which nodes run, and which buffers their results share. Everything is decided on the host before any memory is
//! taken, so that a plan's memory can be counted without a device.
//!
//! 1. Dead code goes: a node is live if an output or a state needs it.
//! 2. Liveness: a tensor lives from the node that makes it to the last node that reads it.
//! 3. Whole buffers are shared, best fit first, by tensors whose lives do not overlap.

use super::graph::{Graph, Inner, Kind};
use std::collections::{HashMap, HashSet};

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

/// What a plan needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Needs {
    /// Device memory.
    pub memory: Memory,
    /// Floating point operations of a run.
    pub flops: f64,
}

impl Memory {
    /// What has to be there at once.
    pub fn total(&self) -> usize {
        self.state.saturating_add(self.input).saturating_add(self.activation)
    }
}

impl std::ops::Add for Memory {
    type Output = Memory;

    /// Of plans that share neither states nor buffers.
    fn add(self, other: Memory) -> Memory {
        Memory {
            state: self.state.saturating_add(other.state),
            input: self.input.saturating_add(other.input),
            activation: self.activation.saturating_add(other.activation),
            unshared: self.unshared.saturating_add(other.unshared),
        }
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

/// One call of a plan, as far as it can be counted without a device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Dispatch {
    /// File, entry and parts.
    pub kernel: String,
    /// Place in the model.
    pub scope: String,
    /// Workgroups.
    pub groups: usize,
    /// Floating point operations.
    pub flops: f64,
    /// Bytes of the tensors that it reads and writes.
    pub bytes: usize,
    /// Bytes of those that it writes.
    pub written: usize,
}

/// The calls that a plan of this graph would make, in order; for tools that count.
pub fn dispatches(graph: &Graph) -> Vec<Dispatch> {
    let inner = graph.inner.borrow();
    let one = |n: usize| {
        let node = &inner.nodes[n];
        Dispatch {
            kernel: node.kernel.name(),
            scope: node.scope.to_string(),
            groups: node.grid.iter().map(|&n| n as usize).product(),
            flops: node.flops,
            bytes: inner.bytes(node),
            written: node.outputs.iter().map(|&id| inner.tensors[id].0.bytes()).sum(),
        }
    };
    Layout::new(&inner).live.into_iter().map(one).collect()
}

/// What a plan of this graph would need, on whatever device.
pub fn needs(graph: &Graph) -> Needs {
    let inner = graph.inner.borrow();
    Layout::new(&inner).needs(&inner)
}

/// What the planner decides.
pub(super) struct Layout {
    /// Nodes that some output or state needs, in order.
    pub live: Vec<usize>,
    /// Shared buffer of each tensor that a live node makes.
    pub slot: HashMap<usize, usize>,
    /// Bytes of each shared buffer.
    pub slots: Vec<usize>,
    /// Tensors with a storage of their own (no aliases) that live nodes or outputs use.
    pub used: HashSet<usize>,
}

impl Layout {
    pub fn new(inner: &Inner) -> Self {
        let live = live_nodes(inner);
        let outputs = output_roots(inner);
        let last = last_uses(inner, &live);
        let used = outputs.iter().copied().chain(last.keys().copied()).collect();
        let (slot, slots) = share(inner, &live, &last, &outputs);
        Layout { live, slot, slots, used }
    }

    /// What a plan of the live nodes needs.
    pub fn needs(&self, inner: &Inner) -> Needs {
        let flops = self.live.iter().map(|&n| inner.nodes[n].flops).sum();
        Needs { memory: self.memory(inner), flops }
    }

    /// Bytes of what the layout uses, by kind.
    pub fn memory(&self, inner: &Inner) -> Memory {
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

fn output_roots(inner: &Inner) -> HashSet<usize> {
    inner.outputs.iter().map(|(_, t)| inner.root(t.id)).collect()
}

/// Backwards through the list: a node is live if it updates a state, or makes an output or an input of a live node.
fn live_nodes(inner: &Inner) -> Vec<usize> {
    let ids = inner.outputs.iter().map(|(_, t)| t.id);
    let mut needed: HashSet<usize> = ids.chain(output_roots(inner)).collect();
    let mut live = Vec::new();
    for (n, node) in inner.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|&o| inner.is_state(o) || needed.contains(&o)) {
            live.push(n);
            for &id in &node.inputs {
                needed.insert(id);
                needed.insert(inner.root(id));
            }
        }
    }
    live.reverse();
    live
}

/// Forwards: the last live node that touches each storage.
fn last_uses(inner: &Inner, live: &[usize]) -> HashMap<usize, usize> {
    let mut last = HashMap::new();
    for &n in live {
        let node = &inner.nodes[n];
        last.extend(node.inputs.iter().chain(&node.outputs).map(|&id| (inner.root(id), n)));
    }
    last
}

/// Gives each tensor that a live node makes one of the shared buffers: of the free ones that fit, the smallest, and none more than
/// twice as large as needed. Outputs are placed before inputs are freed, so that no dispatch writes what it reads.
fn share(
    inner: &Inner,
    live: &[usize],
    last: &HashMap<usize, usize>,
    outputs: &HashSet<usize>,
) -> (HashMap<usize, usize>, Vec<usize>) {
    let (mut slot, mut slots, mut free) = (HashMap::new(), Vec::<usize>::new(), Vec::<usize>::new());
    for &n in live {
        let node = &inner.nodes[n];
        for &id in node.outputs.iter().filter(|&&id| !inner.is_state(id)) {
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
        let touched = node.inputs.iter().chain(&node.outputs);
        let mut ended: Vec<usize> = touched.map(|&id| inner.root(id)).filter(|id| last[id] == n).collect();
        ended.sort_unstable();
        ended.dedup();
        free.extend(ended.iter().filter(|id| !outputs.contains(*id)).filter_map(|id| slot.get(id)));
    }
    (slot, slots)
}
