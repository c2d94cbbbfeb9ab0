//! Pooling and nearest upsampling.

use super::half::stored;
use super::reduce::elements;
use super::shape::moved;
use crate::core::{DType, Graph, Kernel, Source, Tensor};

/// Sizes of a pooling, as the shader has them.
#[derive(Clone, Copy)]
struct Pool {
    input: [usize; 4],
    output: [usize; 4],
    window: [usize; 3],
}

impl Graph {
    /// Largest element of each window of kernel x kernel pixels, `stride` apart: torch's `max_pool2d` of x (N, H, W, C).
    #[track_caller]
    pub fn max_pool2d(&self, x: Tensor, kernel: usize, stride: usize, padding: usize) -> Tensor {
        let pool = Pool::new(x, kernel, stride, padding);
        let y = self.pool("max_forward", pool, &[x], pool.output);
        self.vjp(y, move |g, dy| {
            let index = g.pool_as("index", pool, &[x], pool.output, DType::U32);
            vec![(x, g.max_pool_backward(pool, dy, index))]
        });
        y
    }

    fn max_pool_backward(&self, pool: Pool, dy: Tensor, index: Tensor) -> Tensor {
        let dx = self.pool("max_backward", pool, &[dy, index], pool.input);
        self.vjp(dx, move |g, v| {
            let ddy = g.pool("max_gather", pool, &[v, index], pool.output);
            g.vjp(ddy, move |g, w| vec![(v, g.max_pool_backward(pool, w, index))]);
            vec![(dy, ddy)]
        });
        dx
    }

    /// Mean of each window of kernel x kernel pixels, `stride` apart, where padding counts as zeros: torch's `avg_pool2d` of
    /// x (N, H, W, C).
    #[track_caller]
    pub fn avg_pool2d(&self, x: Tensor, kernel: usize, stride: usize, padding: usize) -> Tensor {
        let y_pool = Pool::new(x, kernel, stride, padding);
        let y = self.pool("avg_forward", y_pool, &[x], y_pool.output);
        self.vjp(y, move |g, dy| {
            let dx = g.pool("avg_backward", y_pool, &[dy], y_pool.input);
            g.vjp(dx, move |g, v| vec![(dy, g.avg_pool2d(v, kernel, stride, padding))]);
            vec![(x, dx)]
        });
        y
    }

    /// x (N, H, W, C) at oh x ow pixels, each the nearest one's copy: torch's `interpolate(mode="nearest")`, at any ratio.
    #[track_caller]
    pub fn upsample_nearest(&self, x: Tensor, oh: usize, ow: usize) -> Tensor {
        assert_eq!(x.rank(), 4, "upsample_nearest of {x:?}: (N, H, W, C)");
        let [n, h, w, c] = [0, 1, 2, 3].map(|i| x.dim(i));
        let record = move |g: &Graph, entry, x: Tensor, shape: [usize; 4]| {
            let each = if c % 4 == 0 { 4 } else { 1 };
            let kernel = Kernel::new("upsample", entry);
            let kernel = match x.dtype() {
                DType::F16 => moved(kernel, x.dtype(), c % 4 == 0),
                _ => elements(kernel, c),
            };
            let call = g.call(kernel).input(x);
            let call = call.ints([n, h, w, c / each, oh, ow]);
            let call = call.float(h as f32 / oh as f32).float(w as f32 / ow as f32);
            call.threads(shape.iter().product::<usize>() / each, 64).output_as(&shape, x.dtype())
        };
        let y = record(self, "forward", x, [n, oh, ow, c]);
        if [oh, ow] == [2 * h, 2 * w] {
            self.note_source(y, Source::Doubled(x));
        }
        self.vjp(y, move |g, dy| {
            let dx = record(g, "backward", dy, [n, h, w, c]);
            g.vjp(dx, move |g, v| vec![(dy, g.upsample_nearest(v, oh, ow))]);
            vec![(x, dx)]
        });
        y
    }

    fn pool(&self, entry: &'static str, pool: Pool, inputs: &[Tensor], shape: [usize; 4]) -> Tensor {
        self.pool_as(entry, pool, inputs, shape, inputs[0].dtype())
    }

    fn pool_as(
        &self,
        entry: &'static str,
        pool: Pool,
        inputs: &[Tensor],
        shape: [usize; 4],
        dtype: DType,
    ) -> Tensor {
        let ([n, h, w, c], [_, oh, ow, _]) = (pool.input, pool.output);
        let each = if c % 4 == 0 { 4 } else { 1 };
        let call = self.call(stored(elements(Kernel::new("pool", entry), c), inputs[0].dtype(), c));
        let call = inputs.iter().fold(call, |call, &x| call.input(x));
        let call = call.ints([n, h, w, c / each, oh, ow]).ints(pool.window);
        call.threads(shape.iter().product::<usize>() / each, 64).output_as(&shape, dtype)
    }
}

impl Pool {
    #[track_caller]
    fn new(x: Tensor, kernel: usize, stride: usize, padding: usize) -> Self {
        assert!(
            x.rank() == 4
                && kernel > 0
                && stride > 0
                && 2 * padding <= kernel
                && x.dim(1).min(x.dim(2)) + 2 * padding >= kernel,
            "pooling of {x:?}, kernel {kernel}, stride {stride}, padding {padding}: (N, H, W, C), and a window that fits"
        );
        let size = |d| (x.dim(d) + 2 * padding - kernel) / stride + 1;
        let input = [0, 1, 2, 3].map(|i| x.dim(i));
        Pool { input, output: [input[0], size(1), size(2), input[3]], window: [kernel, stride, padding] }
    }
}
