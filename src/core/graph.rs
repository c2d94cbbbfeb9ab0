//! The graph: a flat list of nodes in execution order, and reverse-mode differentiation that appends to the same list.
//!
//! Recording computes nothing. An op is one method on [`Graph`] (see `ops/`) that checks shapes, records a kernel call and
//! says right below how its gradient is made (`Graph::vjp`).

use super::gpu::Caps;
use super::kernel::Kernel;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Element type of a tensor in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, two to a 32-bit word; for weights that are not trained, and for activations. Read with `unpack2x16float`, which
    /// needs no device feature.
    F16,
    /// 32-bit unsigned integer: ids, labels, keys.
    U32,
}

impl DType {
    /// Bytes of `n` elements, rounded up to whole 32-bit words.
    pub fn bytes(self, n: usize) -> usize {
        match self {
            DType::F32 | DType::U32 => n.saturating_mul(4),
            DType::F16 => n.div_ceil(2).saturating_mul(4),
        }
    }
}

/// A tensor of a [`Graph`]: a storage and a shape of rank 1 to 4, row-major. Copy; reshaping makes another handle to the same
/// storage and costs nothing.
#[derive(Clone, Copy, PartialEq)]
pub struct Tensor {
    pub(crate) id: usize,
    dims: [usize; 4],
    rank: usize,
    dtype: DType,
}

impl Tensor {
    fn new(id: usize, shape: &[usize], dtype: DType) -> Self {
        assert!((1..=4).contains(&shape.len()), "a tensor has 1 to 4 dimensions, not {shape:?}");
        assert!(shape.iter().all(|&d| d > 0), "empty dimension in {shape:?}");
        let mut dims = [1; 4];
        dims[..shape.len()].copy_from_slice(shape);
        Tensor { id, dims, rank: shape.len(), dtype }
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Size of dimension `i`.
    #[track_caller]
    pub fn dim(&self, i: usize) -> usize {
        self.shape()[i]
    }

    /// Size of the last dimension.
    pub fn last(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements. More than there can be stay more than there can be, and no plan takes them.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape().iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn bytes(&self) -> usize {
        self.dtype.bytes(self.len())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape())
    }
}

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
    /// The same storage as this tensor: a state after an update in place, or a value cut off from its gradient.
    Alias(usize),
}

/// One dispatch.
pub(crate) struct Node {
    pub kernel: Kernel,
    pub inputs: Vec<usize>,
    /// Bound read-write: fresh tensors, or (for updates in place) states.
    pub outputs: Vec<usize>,
    pub params: Vec<u32>,
    pub grid: [u32; 3],
    pub flops: f64,
    pub scope: Rc<str>,
}

/// The handle it was given for (whose shape the gradient gets), and the backward.
type Vjp = (Tensor, Rc<dyn Fn(&Graph, Tensor) -> Vec<(Tensor, Tensor)>>);

#[derive(Default)]
pub(crate) struct Inner {
    pub nodes: Vec<Node>,
    pub tensors: Vec<(Tensor, Kind)>,
    pub outputs: Vec<(String, Tensor)>,
    vjps: HashMap<usize, Vjp>,
    inputs: HashMap<String, Tensor>,
    /// Newest version of each state.
    states: HashMap<String, Tensor>,
    /// Versions of a state that an update in place has overwritten.
    stale: HashMap<usize, &'static str>,
    /// The first call that no device can run: its sizes are more than a kernel can count. How large an image is a user says,
    /// so that this is for the plan to refuse, not a reason to panic.
    pub too_large: Option<String>,
}

/// A recorded computation. Methods named after torch's functions live in `ops/`.
pub struct Graph {
    caps: Caps,
    pub(crate) inner: RefCell<Inner>,
    scopes: RefCell<Vec<String>>,
    /// A panic is on its way out and has said at which scope.
    panicked: Cell<bool>,
    /// A pass is recorded once more, for its backward: states were updated by the first.
    recomputing: Cell<bool>,
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

    fn scope_name(&self) -> String {
        self.scopes.borrow().join(".")
    }

    fn tensor(&self, shape: &[usize], dtype: DType, kind: Kind) -> Tensor {
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
        Tensor::new(x.id, &full, x.dtype)
    }

    /// `x` as a value from which no gradient flows back.
    pub fn stop_gradient(&self, x: Tensor) -> Tensor {
        self.tensor(x.shape(), x.dtype, Kind::Alias(x.id))
    }

    /// f(x), whose intermediate results are not kept for the backward pass but made again in it, one more forward pass for less
    /// memory (Chen et al., "Training deep nets with sublinear memory cost", 2016). Gradients also flow to whatever else `f` uses,
    /// such as parameters. Updates of states in `f`, such as running statistics, happen once.
    pub fn checkpoint(&self, x: Tensor, f: impl Fn(&Graph, Tensor) -> Tensor + 'static) -> Tensor {
        let (y, others) = self.recorded(x, || f(self, x));
        self.vjp(y, move |g, dy| {
            // Cut off, so that the gradient stops here and not where x was made.
            let mut wrt = vec![g.stop_gradient(x)];
            wrt.extend(&others);
            let before = g.recomputing.replace(true);
            let again = f(g, wrt[0]);
            g.recomputing.set(before);
            // So is dy: what made it depends on the same parameters.
            let dy = g.reshape(g.stop_gradient(dy), &[dy.len()]);
            let product = g.mul(g.reshape(again, &[again.len()]), dy);
            let grads = g.backward(g.sum(product, &[0]), &wrt);
            [x].into_iter().chain(others.iter().copied()).zip(grads).collect()
        });
        y
    }

    /// What `f`, a function of x, returns, and the other f32 tensors that it uses.
    #[track_caller]
    pub(crate) fn recorded(&self, x: Tensor, f: impl FnOnce() -> Tensor) -> (Tensor, Vec<Tensor>) {
        let (first, node) = (self.inner.borrow().tensors.len(), self.inner.borrow().nodes.len());
        let y = f();
        assert!(y.id >= first, "a function that returns {y:?}, which was there before");
        let inner = self.inner.borrow();
        // Parameters may be asked for here for the first time.
        let outside = |id: usize| id < first || matches!(inner.tensors[id].1, Kind::State(..));
        let inputs = inner.nodes[node..].iter().flat_map(|n| n.inputs.iter().copied());
        let inputs = inputs.filter(|&id| outside(id) && id != x.id).map(|id| inner.tensors[id].0);
        let mut others: Vec<Tensor> = inputs.filter(|t| t.dtype == DType::F32).collect();
        others.sort_by_key(|t| t.id);
        others.dedup_by_key(|t| t.id);
        (y, others)
    }

    /// The kernel variants recorded so far, each once; for tools that look at them.
    pub fn kernels(&self) -> Vec<Kernel> {
        let mut seen = std::collections::HashSet::new();
        let inner = self.inner.borrow();
        inner.nodes.iter().map(|n| &n.kernel).filter(|k| seen.insert(*k)).cloned().collect()
    }

    /// Starts the record of one kernel call.
    pub fn call(&self, kernel: Kernel) -> Call<'_> {
        Call { graph: self, kernel, inputs: vec![], params: vec![], grid: [1, 1, 1], flops: 0.0 }
    }

    /// Says how the gradient of `y` flows back: the closure gets dL/dy and returns pairs (input, dL/dinput), recording what it
    /// needs. It is run when a `backward` reaches `y`, once for each. All inputs may be given; dead code is dropped later.
    pub fn vjp(&self, y: Tensor, f: impl Fn(&Graph, Tensor) -> Vec<(Tensor, Tensor)> + 'static) {
        self.inner.borrow_mut().vjps.insert(y.id, (y, Rc::new(f)));
    }

    /// [`Graph::vjp`] for a backward made of kernels of its own: `fused` gives the gradients of `inputs`, each a fresh tensor. So
    /// that these can be differentiated again, `composed` makes y from the inputs by differentiable ops.
    pub(crate) fn vjp_fused(
        &self,
        y: Tensor,
        inputs: &[Tensor],
        composed: impl Fn(&Graph, &[Tensor]) -> Tensor + 'static,
        fused: impl Fn(&Graph, Tensor) -> Vec<Tensor> + 'static,
    ) {
        let (inputs, composed) = (inputs.to_vec(), Rc::new(composed));
        self.vjp(y, move |g, dy| {
            let grads = fused(g, dy);
            let all: Vec<Tensor> = inputs.iter().copied().chain([dy]).collect();
            for (i, &dx) in grads.iter().enumerate() {
                let (all, composed) = (all.clone(), composed.clone());
                g.vjp(dx, move |g, v| {
                    // Cut off from what made them, as dy may depend on x in its own way.
                    let leaves: Vec<Tensor> = all.iter().map(|&t| g.stop_gradient(t)).collect();
                    let (&dy, inputs) = leaves.split_last().expect("at least dy");
                    let dot = |a: Tensor, b| {
                        let product = g.mul(g.reshape(a, &[a.len()]), g.reshape(b, &[a.len()]));
                        g.sum(product, &[0])
                    };
                    let dx = g.backward(dot(composed(g, inputs), dy), inputs)[i];
                    let second = g.backward(dot(dx, v), &leaves);
                    all.iter().copied().zip(second).collect()
                });
            }
            inputs.iter().copied().zip(grads).collect()
        });
    }

    /// Gradients of the scalar `loss` with respect to each of `wrt` (any tensors, not only parameters), as nodes of this graph.
    /// May be called again, also on what it returned, where the backward pass is itself made of differentiable ops.
    ///
    /// # Panics
    /// If a node on the way has no backward: never a silent zero. A tensor that `loss` does not depend on gets zeros.
    #[track_caller]
    pub fn backward(&self, loss: Tensor, wrt: &[Tensor]) -> Vec<Tensor> {
        assert_eq!(loss.len(), 1, "backward starts from a scalar, not from {loss:?}");
        let last = self.inner.borrow().tensors.len();
        let needed = self.depends_on(wrt, last);
        let mut grads: HashMap<usize, Tensor> = HashMap::new();
        grads.insert(loss.id, self.constant(loss.shape(), &[1.0]));
        let _scope = self.scope("backward");
        for id in (0..last).rev() {
            let Some(&dy) = grads.get(&id).filter(|_| needed[id]) else { continue };
            let vjp = self.inner.borrow().vjps.get(&id).cloned();
            let Some((y, vjp)) = vjp else {
                if wrt.iter().any(|w| w.id == id) {
                    continue;
                }
                let (kernel, scope) = self.maker(id);
                panic!(
                    "no backward for {kernel} at '{scope}' ({dy:?}): use stop_gradient there if that is meant"
                );
            };
            for (x, dx) in vjp(self, self.reshape(dy, y.shape())) {
                assert_eq!(x.len(), dx.len(), "the backward of {} gave {dx:?} for {x:?}", self.maker(id).0);
                if x.id >= last || !needed[x.id] {
                    continue;
                }
                assert_eq!(x.dtype, dx.dtype, "the backward of {} gave {dx:?} for {x:?}", self.maker(id).0);
                let sum = match grads.get(&x.id) {
                    Some(&before) => self.add(self.reshape(before, dx.shape()), dx),
                    None => dx,
                };
                grads.insert(x.id, sum);
            }
        }
        let zeros = |x: &Tensor| self.constant(x.shape(), &vec![0.0; x.len()]);
        wrt.iter()
            .map(|x| grads.get(&x.id).map_or_else(|| zeros(x), |&d| self.reshape(d, x.shape())))
            .collect()
    }

    /// For each tensor below `last`: does it depend on one of `roots`?
    fn depends_on(&self, roots: &[Tensor], last: usize) -> Vec<bool> {
        let inner = self.inner.borrow();
        let mut made_by = vec![None; inner.tensors.len()];
        for node in &inner.nodes {
            node.outputs.iter().for_each(|&o| made_by[o] = Some(node));
        }
        let mut depends = vec![false; last];
        for root in roots {
            depends[root.id] = true;
        }
        for id in 0..last {
            depends[id] |= match (made_by[id], &inner.tensors[id].1) {
                (Some(node), _) => node.inputs.iter().any(|&i| depends[i]),
                // Cut off, unless it says itself how gradients go on.
                (None, Kind::Alias(of)) => depends[*of] && inner.vjps.contains_key(&id),
                _ => false,
            };
        }
        depends
    }

    /// Whether `x` depends on one of `roots`.
    pub(crate) fn depends(&self, x: Tensor, roots: &[Tensor]) -> bool {
        let last = self.inner.borrow().tensors.len();
        self.depends_on(roots, last)[x.id]
    }

    /// Name of the state whose newest or earlier version `x` is.
    pub(crate) fn state_name(&self, x: Tensor) -> Option<String> {
        let inner = self.inner.borrow();
        match &inner.tensors[inner.root(x.id)].1 {
            Kind::State(name, _) => Some(name.clone()),
            _ => None,
        }
    }

    /// Kernel and scope of the node that made a tensor.
    fn maker(&self, id: usize) -> (String, Rc<str>) {
        let inner = self.inner.borrow();
        let node = inner.nodes.iter().find(|n| n.outputs.contains(&id));
        node.map_or(("an input".into(), "".into()), |n| (n.kernel.name(), n.scope.clone()))
    }
}

/// One kernel call being recorded: inputs in binding order, parameters in the order of the shader's `struct Params`, a grid of
/// workgroups, then the outputs.
pub struct Call<'g> {
    graph: &'g Graph,
    kernel: Kernel,
    inputs: Vec<Tensor>,
    params: Vec<u32>,
    grid: [u32; 3],
    flops: f64,
}

impl Call<'_> {
    /// The next binding.
    pub fn input(mut self, x: Tensor) -> Self {
        self.inputs.push(x);
        self
    }

    /// Whole numbers of `struct Params`.
    pub fn ints<const N: usize>(mut self, values: [usize; N]) -> Self {
        if let Some(large) = values.iter().find(|&&v| v > u32::MAX as usize) {
            self.too_large(format!("a size of {large}"));
        }
        self.params.extend(values.map(|v| v as u32));
        self
    }

    /// A float of `struct Params`.
    pub fn float(mut self, value: f32) -> Self {
        self.params.push(value.to_bits());
        self
    }

    /// One workgroup of `size` invocations for every `size` of `n` work items.
    pub fn threads(self, n: usize, size: usize) -> Self {
        self.groups(n.div_ceil(size))
    }

    /// `n` workgroups, folded over x and y where they are more than a dimension may hold; shaders undo it with `flat_group`.
    pub fn groups(self, n: usize) -> Self {
        const MAX: usize = 65_535;
        let y = n.div_ceil(MAX);
        self.grid(n.div_ceil(y), y, 1)
    }

    /// Workgroups in each dimension.
    pub fn grid(mut self, x: usize, y: usize, z: usize) -> Self {
        if x.max(y).max(z) > 65_535 {
            self.too_large(format!("{x} x {y} x {z} workgroups"));
        }
        self.grid = [x as u32, y as u32, z as u32];
        self
    }

    fn too_large(&self, what: String) {
        let place = || format!("{} of '{}' would take {what}", self.kernel.name(), self.graph.scope_name());
        self.graph.inner.borrow_mut().too_large.get_or_insert_with(place);
    }

    /// Floating point operations of this call, for benches, profiles and the split into submits.
    pub fn flops(mut self, flops: f64) -> Self {
        self.flops = flops;
        self
    }

    /// Ends the record with one fresh f32 tensor.
    pub fn output(self, shape: &[usize]) -> Tensor {
        self.output_as(shape, DType::F32)
    }

    /// Ends the record with one fresh tensor of this type.
    pub fn output_as(self, shape: &[usize], dtype: DType) -> Tensor {
        let [y] = self.outputs([(shape, dtype)]);
        y
    }

    /// Ends the record with fresh tensors.
    pub fn outputs<const N: usize>(self, outs: [(&[usize], DType); N]) -> [Tensor; N] {
        let made = outs.map(|(shape, dtype)| self.graph.tensor(shape, dtype, Kind::Made));
        self.record(made.iter().map(|t| t.id).collect());
        made
    }

    /// Ends the record with an update in place of `states`, and returns their new versions. The old handles must not be used by
    /// later calls.
    pub fn update(self, states: &[Tensor]) -> Vec<Tensor> {
        let graph = self.graph;
        if graph.recomputing.get() {
            return states.to_vec();
        }
        let new: Vec<Tensor> =
            states.iter().map(|s| graph.tensor(s.shape(), s.dtype, Kind::Alias(s.id))).collect();
        let file = self.kernel.file;
        self.record(new.iter().map(|t| t.id).collect());
        let mut inner = graph.inner.borrow_mut();
        for (old, new) in states.iter().zip(&new) {
            let root = inner.root(old.id);
            let Kind::State(name, _) = &inner.tensors[root].1 else {
                panic!("{file} updates {old:?} in place, which is not a state");
            };
            let name = name.clone();
            let others = (0..new.id).filter(|&id| inner.root(id) == root).collect::<Vec<_>>();
            inner.stale.extend(others.into_iter().map(|id| (id, file)));
            inner.states.insert(name, *new);
        }
        new
    }

    fn record(self, outputs: Vec<usize>) {
        assert!(self.params.len() <= 64, "{}: more than 256 bytes of parameters", self.kernel.name());
        let scope = self.graph.scope_name();
        let mut inner = self.graph.inner.borrow_mut();
        for x in &self.inputs {
            if let Some(by) = inner.stale.get(&x.id) {
                panic!(
                    "{} at '{scope}' reads {x:?}, which {by} has overwritten: use what it returned",
                    self.kernel.name()
                );
            }
            if x.dtype == DType::F16 && !self.kernel.takes_f16() {
                panic!("{} at '{scope}' does not take {x:?}: use `to` before it", self.kernel.name());
            }
        }
        inner.nodes.push(Node {
            kernel: self.kernel,
            inputs: self.inputs.iter().map(|t| t.id).collect(),
            outputs,
            params: self.params,
            grid: self.grid,
            flops: self.flops,
            scope: scope.into(),
        });
    }
}

impl Inner {
    /// The tensor that owns the storage of `id`.
    pub fn root(&self, mut id: usize) -> usize {
        while let Kind::Alias(of) = self.tensors[id].1 {
            id = of;
        }
        id
    }
}
