//! The helper behind every row.

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store, Tensor};
use std::sync::OnceLock;

/// The adapter of this test run (`KALEID_ADAPTER`, `KALEID_BACKEND`).
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| Gpu::open(&GpuOptions::from_env()).unwrap())
}

/// A dense array of the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Arr {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Arr {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Arr { shape: shape.to_vec(), data }
    }

    /// An array from a function of the index (four numbers, leading zeros for lower ranks).
    pub fn from_fn(shape: &[usize], f: impl Fn([usize; 4]) -> f64) -> Self {
        let n = shape.iter().product();
        let data = (0..n).map(|i| f(unravel(shape, i))).collect();
        Arr::new(shape, data)
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Arr::new(&self.shape, self.data.iter().map(|&v| f(v)).collect())
    }

    /// Element at an index of four (leading ones are ignored for lower ranks); dimensions of size one repeat.
    pub fn at(&self, index: [usize; 4]) -> f64 {
        let from = 4 - self.shape.len();
        let flat = self.shape.iter().enumerate().fold(0, |flat, (d, &size)| {
            let i = index[from + d];
            flat * size + if size == 1 { 0 } else { i }
        });
        self.data[flat]
    }
}

fn unravel(shape: &[usize], mut flat: usize) -> [usize; 4] {
    let mut index = [0; 4];
    for (d, &size) in shape.iter().enumerate().rev() {
        index[4 - shape.len() + d] = flat % size;
        flat /= size;
    }
    index
}

/// The k-th number of a fixed sequence in [-1, 1), exact in f32.
pub fn random(seed: u64, k: usize) -> f64 {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (k as u64).wrapping_mul(0xD134_2543_DE82_EF95);
    s = (s ^ (s >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    s = (s ^ (s >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((s >> 40) as f64 / (1u64 << 23) as f64) - 1.0
}

/// One row.
pub struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    tolerance: f64,
    range: (f64, f64),
    gradients: Vec<usize>,
    words: Vec<(&'static str, Vec<u32>)>,
}

impl Case {
    pub fn new(name: &'static str, shapes: &[&[usize]]) -> Self {
        Case {
            name,
            shapes: shapes.iter().map(|s| s.to_vec()).collect(),
            tolerance: 2e-5,
            range: (-2.0, 2.0),
            gradients: (0..shapes.len()).collect(),
            words: vec![],
        }
    }

    /// Inputs are drawn from here instead of -2..2.
    pub fn range(mut self, from: f64, to: f64) -> Self {
        self.range = (from, to);
        self
    }

    /// Values of an input U32 that the op asks the graph for by this name: labels, ids, keys.
    pub fn words(mut self, name: &'static str, values: &[u32]) -> Self {
        self.words.push((name, values.to_vec()));
        self
    }

    /// Largest error, relative to the largest reference value.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Inputs whose gradient is checked; all by default.
    pub fn gradients(mut self, inputs: &[usize]) -> Self {
        self.gradients = inputs.to_vec();
        self
    }

    /// Ops that have no backward, by contract.
    pub fn forward_only(self) -> Self {
        self.gradients(&[])
    }

    /// Checks the gradient of input `i` as an op of its own: against central differences of the reference, and its gradients
    /// with respect to all inputs, which are second derivatives. For few elements.
    pub fn check_second(
        self,
        i: usize,
        op: impl Fn(&Graph, &[Tensor]) -> Tensor,
        reference: impl Fn(&[Arr]) -> Arr,
    ) {
        let gradient = |g: &Graph, x: &[Tensor]| {
            let y = op(g, x);
            let r: Vec<f32> = (0..y.len()).map(|k| random(98, k) as f32).collect();
            let product = g.mul(y, g.constant(y.shape(), &r));
            let dims: Vec<usize> = (0..y.rank()).collect();
            g.backward(g.sum(product, &dims), &[x[i]])[0]
        };
        let loss =
            |x: &[Arr]| -> f64 { reference(x).data.iter().enumerate().map(|(k, y)| y * random(98, k)).sum() };
        self.check(gradient, |x| {
            let mut moved = x.to_vec();
            let difference = |k: usize| {
                let (at, h) = (x[i].data[k], 1e-3);
                let mut slope = 0.0;
                // Of fourth order, as differences of these are taken once more.
                for (steps, factor) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
                    moved[i].data[k] = at + steps * h;
                    slope += factor * loss(&moved) / (12.0 * h);
                }
                moved[i].data[k] = at;
                slope
            };
            Arr::new(&x[i].shape, (0..x[i].data.len()).map(difference).collect())
        });
    }

    pub fn check(self, op: impl Fn(&Graph, &[Tensor]) -> Tensor, reference: impl Fn(&[Arr]) -> Arr) {
        let (from, to) = self.range;
        let draw =
            |seed: usize, k| (from + (to - from) * (random(seed as u64 + 1, k) + 1.0) / 2.0) as f32 as f64;
        let inputs: Vec<Arr> = self
            .shapes
            .iter()
            .enumerate()
            .map(|(s, shape)| Arr::new(shape, (0..shape.iter().product()).map(|k| draw(s, k)).collect()))
            .collect();
        let label = format!("{} {:?}", self.name, self.shapes);

        let g = Graph::new(gpu().caps());
        let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
        let x: Vec<Tensor> =
            inputs.iter().zip(&names).map(|(a, n)| g.input(n, &a.shape, DType::F32)).collect();
        let y = op(&g, &x);
        let want = reference(&inputs);
        assert_eq!(y.shape(), want.shape, "{label}: shape");
        g.output("y", y);
        let cotangent = Arr::new(&want.shape, (0..want.data.len()).map(|k| random(99, k)).collect());
        if !self.gradients.is_empty() {
            let r = g.input("cotangent", y.shape(), DType::F32);
            let dims: Vec<usize> = (0..y.rank()).collect();
            let loss = g.sum(g.mul(y, r), &dims);
            let wrt: Vec<Tensor> = self.gradients.iter().map(|&i| x[i]).collect();
            for (i, dx) in self.gradients.iter().zip(g.backward(loss, &wrt)) {
                g.output(&format!("d{i}"), dx);
            }
        }
        let store = Store::new(gpu());
        let mut plan = Plan::new(gpu(), g, &store).unwrap();
        let f32s = |a: &Arr| a.data.iter().map(|&v| v as f32).collect::<Vec<_>>();
        for (a, n) in inputs.iter().zip(&names) {
            plan.write(n, &f32s(a)).unwrap();
        }
        for (name, values) in &self.words {
            plan.write_u32(name, values).unwrap();
        }
        if !self.gradients.is_empty() {
            plan.write("cotangent", &f32s(&cotangent)).unwrap();
        }
        plan.run().unwrap();
        compare(&label, &plan.read("y").unwrap(), &want.data, self.tolerance);

        // Central differences at up to 24 elements of each input.
        let loss = |inputs: &[Arr]| -> f64 {
            reference(inputs).data.iter().zip(&cotangent.data).map(|(y, r)| y * r).sum()
        };
        for &i in &self.gradients {
            let got = plan.read(&format!("d{i}")).unwrap();
            let n = got.len();
            let step = n.div_ceil(24);
            let picked: Vec<usize> = (0..n).step_by(step).chain([n - 1]).collect();
            let want: Vec<f64> = picked
                .iter()
                .map(|&k| {
                    let h = 1e-4;
                    let mut moved = inputs.clone();
                    moved[i].data[k] += h;
                    let up = loss(&moved);
                    moved[i].data[k] -= 2.0 * h;
                    (up - loss(&moved)) / (2.0 * h)
                })
                .collect();
            let got: Vec<f32> = picked.iter().map(|&k| got[k]).collect();
            compare(
                &format!("{label}: gradient of input {i} at {picked:?}"),
                &got,
                &want,
                10.0 * self.tolerance,
            );
        }
    }
}

/// Panics with the worst place when an error exceeds `tolerance` x the largest reference value (or 1e-3, if that is larger).
pub fn compare(label: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{label}: length");
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let error = |i: usize| (got[i] as f64 - want[i]).abs() / scale;
    let worst = (0..got.len()).max_by(|&i, &j| error(i).total_cmp(&error(j))).unwrap();
    assert!(
        error(worst) <= tolerance,
        "{label}: element {worst} is {}, expected {} (error {:.2e} of the largest value, allowed {tolerance:.0e})",
        got[worst],
        want[worst],
        error(worst)
    );
}
