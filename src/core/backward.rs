//! Reverse-mode differentiation, which appends to the graph it reads, and recompute. Sums and products of gradients are recorded
//! by the ops `add`, `mul` and `sum`, the only ones that this room takes from the one above.

use super::dtype::DType;
use super::graph::{Graph, Kind};
use super::tensor::Tensor;
use std::collections::HashMap;
use std::rc::Rc;

impl Graph {
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
                    // Detached from what made them, as dy may depend on x in its own way.
                    let leaves: Vec<Tensor> = all.iter().map(|&t| g.stop_gradient(t)).collect();
                    let (&dy, inputs) = leaves.split_last().expect("at least dy");
                    let dx = g.backward(g.dot(composed(g, inputs), dy), inputs)[i];
                    let second = g.backward(g.dot(dx, v), &leaves);
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
                assert_eq!(
                    x.dtype(),
                    dx.dtype(),
                    "the backward of {} gave {dx:?} for {x:?}",
                    self.maker(id).0
                );
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
                (Some(node), _) => node.depends.iter().any(|&i| depends[i]),
                // Detached, unless it has a backward of its own.
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

    /// `x` as a value from which no gradient flows back: torch's `detach`.
    pub fn stop_gradient(&self, x: Tensor) -> Tensor {
        self.tensor(x.shape(), x.dtype(), Kind::Alias(x.id))
    }

    /// f(x), whose intermediate results are not kept for the backward pass but recomputed in it: one more forward pass for less
    /// memory (Chen et al., "Training deep nets with sublinear memory cost", 2016). Gradients also flow to whatever else `f` uses,
    /// such as parameters. Updates of states in `f`, such as running statistics, happen once.
    pub fn recompute(&self, x: Tensor, f: impl Fn(&Graph, Tensor) -> Tensor + 'static) -> Tensor {
        let (y, others) = self.recorded(x, || f(self, x));
        self.vjp(y, move |g, dy| {
            // Detached, so that the gradient stops here and not where x was made.
            let mut wrt = vec![g.stop_gradient(x)];
            wrt.extend(&others);
            let before = g.recomputing.replace(true);
            let again = f(g, wrt[0]);
            g.recomputing.set(before);
            // dy is detached too: it depends on the same parameters and would be counted twice.
            let grads = g.backward(g.dot(again, g.stop_gradient(dy)), &wrt);
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
        let mut others: Vec<Tensor> = inputs.filter(|t| t.dtype() == DType::F32).collect();
        others.sort_by_key(|t| t.id);
        others.dedup_by_key(|t| t.id);
        (y, others)
    }

    /// Sum of a b over all elements, (1): a scalar whose gradient with respect to a is b.
    fn dot(&self, a: Tensor, b: Tensor) -> Tensor {
        let product = self.mul(self.reshape(a, &[a.len()]), self.reshape(b, &[a.len()]));
        self.sum(product, &[0])
    }

    /// Kernel and scope of the node that made a tensor.
    fn maker(&self, id: usize) -> (String, Rc<str>) {
        let inner = self.inner.borrow();
        let node = inner.nodes.iter().find(|n| n.outputs.contains(&id));
        node.map_or(("an input".into(), "".into()), |n| (n.kernel.name(), n.scope.clone()))
    }
}
