//! The graph: a flat list of nodes in execution order.
//!
//! Recording computes nothing. An op is one method on [`Graph`] (see `ops/`) that checks shapes, records a kernel call
//! (`call.rs`) and says right below how its gradient is made (`Graph::vjp`, `backward.rs`).

use super::caps::Caps;
use super::dtype::DType;
use super::kernel::Kernel;
use super::tensor::Tensor;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// How a state tensor starts when the [`super::Store`] does not hold it yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// It must have been loaded or written before a plan is made.
    Loaded,
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
}

/// Where the bytes of a tensor come from.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Written by the caller before a run.
    Input(String),
    /// Lives in the store under this name, across plans.
    State(String, Init),
    /// Fixed numbers, uploaded when the plan is made.
    Constant(Rc<[u8]>),
    /// Made by a node.
    Made,
    /// The same storage as this tensor: a state after an update in place, or a detached value.
    Alias(usize),
}

/// What an op that moves elements made its result of. Ops that can read it there do; where all do, the copy is dead code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// The columns of a wider tensor from `first` on.
    Columns { of: Tensor, first: usize },
    /// The rows of taller matrices from `first` on.
    Rows { of: Tensor, first: usize },
    /// The columns of two tensors, side by side.
    Joined([Tensor; 2]),
    /// An image of half the size (N, H, W, C), each pixel four times.
    Doubled(Tensor),
}

/// One dispatch.
pub(crate) struct Node {
    pub kernel: Kernel,
    /// Bound for reading.
    pub inputs: Vec<usize>,
    /// What the outputs are functions of: the inputs, but for what is read where it came from.
    pub depends: Vec<usize>,
    /// Bound read-write: fresh tensors, or (for updates in place) states.
    pub outputs: Vec<usize>,
    pub params: Vec<u32>,
    pub grid: [u32; 3],
    /// Its workgroups of x and y may be dispatched in pieces: the word behind `params` is the number of the first.
    pub in_pieces: bool,
    pub flops: f64,
    pub scope: Rc<str>,
}

/// The handle it was given for (whose shape the gradient gets), and the backward.
pub(crate) type Vjp = (Tensor, Rc<dyn Fn(&Graph, Tensor) -> Vec<(Tensor, Tensor)>>);

#[derive(Default)]
pub(crate) struct Inner {
    pub nodes: Vec<Node>,
    pub tensors: Vec<(Tensor, Kind)>,
    pub outputs: Vec<(String, Tensor)>,
    pub vjps: HashMap<usize, Vjp>,
    pub inputs: HashMap<String, Tensor>,
    /// Newest version of each state.
    pub states: HashMap<String, Tensor>,
    /// Where the results of ops that move elements came from.
    pub sources: HashMap<usize, Source>,
    /// Versions of a state that an update in place has overwritten.
    pub stale: HashMap<usize, &'static str>,
    /// The first call whose sizes exceed what a kernel can index. Users choose image sizes, so that this is for the plan to refuse,
    /// not a reason to panic.
    pub too_large: Option<String>,
}

/// A recorded computation. Methods named after torch's functions live in `ops/`.
pub struct Graph {
    caps: Caps,
    pub(crate) inner: RefCell<Inner>,
    scopes: RefCell<Vec<String>>,
    /// A panic is on its way out and has said at which scope.
    panicked: Cell<bool>,
    /// A forward pass is being recorded again for the backward pass: states were updated by the first.
    pub(super) recomputing: Cell<bool>,
}

/// Ends a scope when dropped.
pub struct ScopeGuard<'g>(&'g Graph);

impl Drop for ScopeGuard<'_> {
    fn drop(&mut self) {
        let mut scopes = self.0.scopes.borrow_mut();
        // Shapes that do not fit panic inside an op, which does not know where in the model it is.
        if std::thread::panicking() && !self.0.panicked.replace(true) {
            eprintln!("while recording '{}'", scopes.join("."));
        }
        scopes.pop();
    }
}

impl Graph {
    /// An empty graph whose ops choose kernel variants for a device of these abilities.
    pub fn new(caps: &Caps) -> Self {
        Graph {
            caps: caps.clone(),
            inner: RefCell::default(),
            scopes: RefCell::default(),
            panicked: Cell::new(false),
            recomputing: Cell::new(false),
        }
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Names the part of a model that is being recorded, for labels, profiles and panics. Ends when the guard is dropped.
    pub fn scope(&self, name: &str) -> ScopeGuard<'_> {
        self.scopes.borrow_mut().push(name.to_string());
        ScopeGuard(self)
    }

    pub(super) fn scope_name(&self) -> String {
        self.scopes.borrow().join(".")
    }

    pub(super) fn tensor(&self, shape: &[usize], dtype: DType, kind: Kind) -> Tensor {
        let mut inner = self.inner.borrow_mut();
        let tensor = Tensor::new(inner.tensors.len(), shape, dtype);
        inner.tensors.push((tensor, kind));
        tensor
    }

    /// A tensor that the caller writes before each run (or once: it keeps its value). Asking for a name again returns the same one.
    #[track_caller]
    pub fn input(&self, name: &str, shape: &[usize], dtype: DType) -> Tensor {
        if let Some(&t) = self.inner.borrow().inputs.get(name) {
            assert!(
                t.shape() == shape && t.dtype() == dtype,
                "input {name} is {t:?}, asked for as {dtype:?}{shape:?}"
            );
            return t;
        }
        let t = self.tensor(shape, dtype, Kind::Input(name.to_string()));
        self.inner.borrow_mut().inputs.insert(name.to_string(), t);
        t
    }

    /// Numbers that never change.
    #[track_caller]
    pub fn constant(&self, shape: &[usize], data: &[f32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "constant of shape {shape:?}");
        self.tensor(shape, DType::F32, Kind::Constant(bytemuck::cast_slice(data).into()))
    }

    /// A named tensor that lives on the device across runs and plans: a parameter, a moment, a running statistic. Asking for a
    /// name again returns its newest version.
    #[track_caller]
    pub fn state(&self, name: &str, shape: &[usize], dtype: DType, init: Init) -> Tensor {
        if let Some(&t) = self.inner.borrow().states.get(name) {
            assert!(
                t.shape() == shape && t.dtype() == dtype,
                "state {name} is {t:?}, asked for as {shape:?}"
            );
            return t;
        }
        let t = self.tensor(shape, dtype, Kind::State(name.to_string(), init));
        self.inner.borrow_mut().states.insert(name.to_string(), t);
        t
    }

    /// Makes `t` readable after a run under `name`.
    pub fn output(&self, name: &str, t: Tensor) {
        self.inner.borrow_mut().outputs.push((name.to_string(), t));
    }

    /// Another shape over the same elements; costs nothing. One size may be given as 0: it is worked out.
    #[track_caller]
    pub fn reshape(&self, x: Tensor, shape: &[usize]) -> Tensor {
        let known: usize = shape.iter().filter(|&&d| d != 0).product();
        let full: Vec<usize> = shape.iter().map(|&d| if d == 0 { x.len() / known } else { d }).collect();
        assert_eq!(full.iter().product::<usize>(), x.len(), "cannot reshape {x:?} to {shape:?}");
        Tensor::new(x.id, &full, x.dtype())
    }

    pub(crate) fn note_source(&self, y: Tensor, source: Source) {
        self.inner.borrow_mut().sources.insert(y.id, source);
    }

    /// Where `x` came from, if an op that moves elements made it, and the shape that it was made in.
    pub(crate) fn source(&self, x: Tensor) -> Option<(Source, Tensor)> {
        let inner = self.inner.borrow();
        let source = *inner.sources.get(&x.id)?;
        let from: &[Tensor] = match &source {
            Source::Columns { of, .. } | Source::Rows { of, .. } | Source::Doubled(of) => {
                std::slice::from_ref(of)
            }
            Source::Joined(both) => both,
        };
        let gone = from.iter().any(|t| inner.stale.contains_key(&t.id));
        (!gone).then(|| (source, inner.tensors[x.id].0))
    }

    /// The kernel variants recorded so far, each once; for tools that look at them.
    pub fn kernels(&self) -> Vec<Kernel> {
        let mut seen = std::collections::HashSet::new();
        let inner = self.inner.borrow();
        inner.nodes.iter().map(|n| &n.kernel).filter(|k| seen.insert(*k)).cloned().collect()
    }

    /// Name of the state whose newest or earlier version `x` is.
    pub(crate) fn state_name(&self, x: Tensor) -> Option<String> {
        let inner = self.inner.borrow();
        match &inner.tensors[inner.root(x.id)].1 {
            Kind::State(name, _) => Some(name.clone()),
            _ => None,
        }
    }
}

impl Inner {
    /// Bytes of the tensors that a node reads and writes, each once.
    pub fn bytes(&self, node: &Node) -> usize {
        let mut ids: Vec<usize> = node.inputs.iter().chain(&node.outputs).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.iter().map(|&id| self.tensors[id].0.bytes()).sum()
    }

    /// The tensor that owns the storage of `id`.
    pub fn root(&self, mut id: usize) -> usize {
        while let Kind::Alias(of) = self.tensors[id].1 {
            id = of;
        }
        id
    }

    /// Whether the storage of `id` is a state's.
    pub fn is_state(&self, id: usize) -> bool {
        matches!(self.tensors[self.root(id)].1, Kind::State(..))
    }
}
