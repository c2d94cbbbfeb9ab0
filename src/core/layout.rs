//! The planner: which nodes run, and which buffers their results share. Everything is decided on the host before any memory is
//! taken, so that a plan's memory can be counted without a device.
//!
//! 1. Dead code goes: a node is live if an output or a state needs it.
//! 2. Liveness: a tensor lives from the node that makes it to the last node that reads it.
//! 3. Whole buffers are shared, the largest first, by tensors whose lives do not overlap.

use super::graph::{Graph, Inner, Kind};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

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

/// Bytes of each buffer that intermediate results of a plan of this graph would share, the largest first.
pub fn buffers(graph: &Graph) -> Vec<usize> {
    Layout::new(&graph.inner.borrow()).slots
}

/// What the planner decides.
pub(super) struct Layout {
    /// Nodes that some output or state needs, in order.
    pub live: Vec<usize>,
    /// Shared buffer of each tensor that a live node makes.
    pub slot: HashMap<usize, usize>,
    /// Bytes of each shared buffer, the largest first.
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

/// Gives each tensor that a live node makes one of the shared buffers, the largest tensors first, as in Pisarchyk and Lee, "Efficient
/// Memory Management for Deep Neural Net Inference" (2020): no buffer is larger than the first tensor that it was made for, and of
/// those that are free throughout a tensor's life it gets the one that was written last before. A node's results never share with what it
/// reads.
fn share(
    inner: &Inner,
    live: &[usize],
    last: &HashMap<usize, usize>,
    outputs: &HashSet<usize>,
) -> (HashMap<usize, usize>, Vec<usize>) {
    let made = live.iter().flat_map(|&n| inner.nodes[n].outputs.iter().map(move |&id| (id, n)));
    let mut tensors: Vec<(usize, usize)> = made.filter(|(id, _)| !inner.is_state(*id)).collect();
    tensors.sort_by_key(|(id, n)| (Reverse(inner.tensors[*id].0.bytes()), *n));
    let (mut slot, mut slots) = (HashMap::new(), Vec::<usize>::new());
    // The lives that each buffer has already: its first node, and its last.
    let mut lives: Vec<BTreeMap<usize, usize>> = vec![];
    for (id, from) in tensors {
        let to = if outputs.contains(&id) { usize::MAX } else { last[&id] };
        // The end of the life before, where there is room for this one.
        let before = |lives: &BTreeMap<usize, usize>| match lives.range(..=to).next_back() {
            None => Some(0),
            Some((_, &end)) => (end < from).then_some(end),
        };
        let free = lives.iter().enumerate().filter_map(|(s, lives)| Some((before(lives)?, s)));
        let chosen = free.max().map_or(slots.len(), |(_, s)| s);
        if chosen == slots.len() {
            slots.push(inner.tensors[id].0.bytes());
            lives.push(BTreeMap::new());
        }
        lives[chosen].insert(from, to);
        slot.insert(id, chosen);
    }
    (slot, slots)
}
