//! Activations in f16, half the memory and half the traffic; sums stay f32, and so do parameters and their gradients.
//!
//! What an op makes has the type of its input: convolutions, normalisations over columns, activations, additions and poolings of
//! f16 give f16, and so do their gradients; sums and the products of two f16 tensors (weight gradients) give f32. Other ops
//! refuse f16 when the graph is built. [`Graph::scale_gradients`] keeps small gradients from vanishing.

use crate::core::{DType, Graph, Kernel, Tensor};

impl Graph {
    /// `x` as [`DType::F32`] or [`DType::F16`], as torch's `to`. f16 is for a last dimension that is a multiple of four; what is too
    /// large for it becomes its largest number, 65504.
    #[track_caller]
    pub fn to(&self, x: Tensor, dtype: DType) -> Tensor {
        if x.dtype() == dtype {
            return x;
        }
        let entry = match (x.dtype(), dtype) {
            (DType::F32, DType::F16) if x.last() % 4 == 0 => "to_f16",
            (DType::F16, DType::F32) => "to_f32",
            _ => panic!("{x:?} cannot become {dtype:?}"),
        };
        let kernel = stored(Kernel::new("cast", entry).alias("E", "vec4f"), DType::F16, 4);
        let call = self.call(kernel).input(x).ints([x.len()]).threads(x.len().div_ceil(4), 64);
        let y = call.output_as(x.shape(), dtype);
        self.vjp(y, move |g, dy| vec![(x, g.to(dy, x.dtype()))]);
        y
    }

    /// f(x), an f32 tensor, whose gradient enters `f` times a power of two and leaves it divided by that again: loss scaling
    /// (Micikevicius et al., "Mixed precision training", 2018) around the part of a model that is f16. The power is chosen in each
    /// backward pass, from its largest number at the end of `f`, so that no step has to be tried and skipped. `x` must not depend
    /// on what else `f` uses.
    #[track_caller]
    pub fn scale_gradients(&self, x: Tensor, f: impl Fn(&Graph, Tensor) -> Tensor) -> Tensor {
        let (inside, others) = self.recorded(x, || f(self, x));
        assert_eq!(inside.dtype(), DType::F32, "scale_gradients of a function that returns {inside:?}");
        assert!(!self.depends(x, &others), "scale_gradients: {x:?} depends on parameters of the function");
        let y = self.stop_gradient(inside);
        self.vjp(y, move |g, dy| {
            let kernel = Kernel::new("gradient_scale", "main");
            let scale = g.call_rows(kernel, 1, dy.len()).input(dy).ints([dy.len()]).output(&[2]);
            let [up, down] = [0, 1].map(|i| g.slice(scale, 0, i, 1));
            let flat = |t: Tensor| g.reshape(t, &[t.len()]);
            let dy = g.stop_gradient(g.mul(flat(dy), up));
            let wrt: Vec<Tensor> = [x].into_iter().chain(others.iter().copied()).collect();
            let grads = g.backward(g.sum(g.mul(flat(inside), dy), &[0]), &wrt);
            wrt.into_iter().zip(grads.into_iter().map(|dx| g.mul(dx, down))).collect()
        });
        y
    }
}

/// The kernel with the part in stored/ that fits tensors of this type, whose rows have `width` numbers.
#[track_caller]
pub(crate) fn stored(kernel: Kernel, dtype: DType, width: usize) -> Kernel {
    match dtype {
        DType::F16 => {
            assert!(width % 4 == 0, "{}: f16 rows of {width} are no multiple of four", kernel.name());
            kernel.alias("S", "vec2u").part("stored/f16").f16()
        }
        _ => kernel.alias("S", "E").part("stored/f32"),
    }
}
