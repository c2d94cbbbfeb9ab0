//! Recording one kernel call into a graph.

use super::dtype::DType;
use super::graph::{Graph, Kind, Node};
use super::kernel::Kernel;
use super::tensor::Tensor;

impl Graph {
    /// Starts the record of one kernel call.
    pub fn call(&self, kernel: Kernel) -> Call<'_> {
        let (inputs, of, params) = (vec![], vec![], vec![]);
        Call { graph: self, kernel, inputs, of, params, grid: [1, 1, 1], in_pieces: false, flops: 0.0 }
    }
}

/// One kernel call being recorded: inputs in binding order, parameters in the order of the shader's `struct Params`, a grid of
/// workgroups, then the outputs.
pub struct Call<'g> {
    graph: &'g Graph,
    kernel: Kernel,
    inputs: Vec<Tensor>,
    of: Vec<Tensor>,
    params: Vec<u32>,
    grid: [u32; 3],
    in_pieces: bool,
    flops: f64,
}

impl Call<'_> {
    /// The next binding.
    pub fn input(mut self, x: Tensor) -> Self {
        self.inputs.push(x);
        self
    }

    /// Says that the call is a function of `x`, whose elements it reads where they came from: gradients flow to `x`.
    pub(crate) fn of(mut self, x: Tensor) -> Self {
        self.of.push(x);
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

    /// Says that the workgroups of x and y may be dispatched in pieces, where all of them would keep the device busy for too long: the
    /// shader adds the last number of `struct Params`, which the plan fills, to `flat_group`.
    pub(crate) fn in_pieces(mut self) -> Self {
        self.in_pieces = true;
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
            states.iter().map(|s| graph.tensor(s.shape(), s.dtype(), Kind::Alias(s.id))).collect();
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
        let params = self.params.len() + usize::from(self.in_pieces);
        assert!(params <= 64, "{}: more than 256 bytes of parameters", self.kernel.name());
        let scope = self.graph.scope_name();
        let mut inner = self.graph.inner.borrow_mut();
        for x in &self.inputs {
            if let Some(by) = inner.stale.get(&x.id) {
                panic!(
                    "{} at '{scope}' reads {x:?}, which {by} has overwritten: use what it returned",
                    self.kernel.name()
                );
            }
            if x.dtype() == DType::F16 && !self.kernel.takes_f16() {
                panic!("{} at '{scope}' does not take {x:?}: use `to` before it", self.kernel.name());
            }
        }
        let inputs: Vec<usize> = self.inputs.iter().map(|t| t.id).collect();
        inner.nodes.push(Node {
            kernel: self.kernel,
            depends: inputs.iter().copied().chain(self.of.iter().map(|t| t.id)).collect(),
            inputs,
            outputs,
            params: self.params,
            grid: self.grid,
            in_pieces: self.in_pieces,
            flops: self.flops,
            scope: scope.into(),
        });
    }
}
