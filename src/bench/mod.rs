//! The cases of `kaleid bench`: every public op with shapes of Stable Diffusion 1.5, CLIP, ResNet-50 and Llama, measured against
//! what this adapter can do at best.

mod cases;

use crate::core::{Caps, DType, Gpu, Graph, Kernel, Plan, Store, Tensor};
use crate::data::rng::fnv1a;
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use cases::all;

/// How long a case is measured, about.
const BUDGET: Duration = Duration::from_secs(1);

/// One named case: what it records.
pub struct Case {
    /// Unique; the op's name comes first where the case is about one op.
    pub name: String,
    record: Rc<Record>,
    /// The gradients of all inputs too.
    backward: bool,
}

/// Records an op; what it returns is kept from being dead code.
type Record = dyn Fn(&Inputs) -> Vec<Tensor>;

/// Makes the inputs of a case: numbers of no importance.
pub struct Inputs<'g> {
    g: &'g Graph,
    floats: RefCell<Vec<Tensor>>,
    words: RefCell<Vec<(Tensor, Vec<u32>)>>,
}

impl Inputs<'_> {
    /// Numbers in [0, 1).
    fn f32(&self, shape: &[usize]) -> Tensor {
        let x = self.g.input(&format!("f32.{}", self.floats.borrow().len()), shape, DType::F32);
        self.floats.borrow_mut().push(x);
        x
    }

    /// Whole numbers below `end`.
    fn u32(&self, shape: &[usize], end: u32) -> Tensor {
        let n = shape.iter().product::<usize>() as u32;
        self.words(shape, (0..n).map(|k| k.wrapping_mul(2_654_435_761) % end).collect())
    }

    /// These whole numbers.
    fn words(&self, shape: &[usize], values: Vec<u32>) -> Tensor {
        let x = self.g.input(&format!("u32.{}", self.words.borrow().len()), shape, DType::U32);
        self.words.borrow_mut().push((x, values));
        x
    }
}

impl Case {
    /// Records the case into `g`, and says which inputs it has, those of whole numbers with their values.
    fn record(&self, g: &Graph) -> (Vec<Tensor>, Vec<(Tensor, Vec<u32>)>) {
        let inputs = Inputs { g, floats: RefCell::default(), words: RefCell::default() };
        let mut outputs = (self.record)(&inputs);
        let floats = inputs.floats.into_inner();
        if self.backward {
            let y = outputs[0];
            let dims: Vec<usize> = (0..y.rank()).collect();
            outputs.extend(g.backward(g.sum(y, &dims), &floats));
        }
        for (i, &y) in outputs.iter().enumerate() {
            g.output(&format!("y{i}"), y);
        }
        (floats, inputs.words.into_inner())
    }

    /// The kernels that it takes on such a device. Needs no device.
    fn kernels(&self, caps: &Caps) -> Vec<Kernel> {
        let g = Graph::new(caps);
        self.record(&g);
        g.kernels()
    }

    /// Whether the tile of matrix products changes anything about it.
    pub fn has_tiles(&self, caps: &Caps) -> bool {
        self.kernels(caps).iter().any(|kernel| kernel.name().starts_with("gemm"))
    }

    fn plan(&self, gpu: &Gpu, tile: Option<[usize; 5]>) -> Result<Plan> {
        let g = Graph::new(&Caps { tile, ..gpu.caps().clone() });
        let (floats, words) = self.record(&g);
        let mut plan = Plan::new(gpu, g, &Store::new(gpu)).with_context(|| self.name.clone())?;
        for (i, x) in floats.iter().enumerate() {
            let data: Vec<f32> = (0..x.len()).map(|k| (k * 7919 % 1009) as f32 / 1009.0).collect();
            plan.write(&format!("f32.{i}"), &data)?;
        }
        for (i, (_, data)) in words.iter().enumerate() {
            plan.write_u32(&format!("u32.{i}"), data)?;
        }
        Ok(plan)
    }

    /// Times the case. The first run, in which drivers compile, does not count.
    ///
    /// # Errors
    /// An adapter that cannot hold it, or fails.
    pub fn measure(&self, gpu: &Gpu) -> Result<Measured> {
        self.measure_with(gpu, None)
    }

    /// Times the case with a tile of its matrix products that is not the table's.
    ///
    /// # Errors
    /// As [`Case::measure`].
    pub fn measure_with(&self, gpu: &Gpu, tile: Option<[usize; 5]>) -> Result<Measured> {
        let mut plan = self.plan(gpu, tile)?;
        let (mut seconds, mut host) = (vec![], vec![]);
        let mut start = Instant::now();
        for run in 0.. {
            let begin = Instant::now();
            plan.run()?;
            let submitted = begin.elapsed();
            gpu.wait()?;
            if run == 0 {
                start = Instant::now();
                continue;
            }
            host.push(submitted.as_secs_f64());
            seconds.push(begin.elapsed().as_secs_f64());
            if seconds.len() >= 3 && start.elapsed() > BUDGET {
                break;
            }
        }
        Ok(Measured {
            seconds: best(seconds),
            host_seconds: best(host),
            dispatches: plan.dispatches(),
            flops: plan.flops(),
            bytes: plan.bytes() as f64,
        })
    }
}

/// Other programs only ever make a run slower.
fn best(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::MAX, f64::min)
}

/// What one run of a case takes.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Best time until the device is done.
    pub seconds: f64,
    /// Best time until the work is handed over.
    pub host_seconds: f64,
    /// Kernel calls.
    pub dispatches: usize,
    /// Floating point operations.
    pub flops: f64,
    /// Bytes of the tensors that all calls are given.
    pub bytes: f64,
}

impl Measured {
    /// Rate of arithmetic.
    pub fn gflops(&self) -> f64 {
        self.flops / self.seconds / 1e9
    }

    /// Rate of memory.
    pub fn gbs(&self) -> f64 {
        self.bytes / self.seconds / 1e9
    }
}

/// What an adapter can do at best: the upper bound of every case (Williams et al. 2009).
pub struct Roofline {
    /// Multiply-adds in registers.
    pub gflops: f64,
    /// A copy of 64 MiB: read and written bytes.
    pub gbs: f64,
}

impl Roofline {
    /// Measures it.
    ///
    /// # Errors
    /// An adapter that fails.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let measure = |name| all().into_iter().find(|c| c.name == name).expect("a case").measure(gpu);
        Ok(Roofline { gflops: measure("multiply_add")?.gflops(), gbs: measure("copy")?.gbs() })
    }

    /// Share of the best possible rate: the larger of the share of arithmetic and of memory.
    pub fn share(&self, m: &Measured) -> f64 {
        (m.gflops() / self.gflops).max(m.gbs() / self.gbs)
    }
}

/// Final WGSL of every kernel variant that the cases take on such a device, by a name that tells them apart.
pub fn sources(caps: &Caps) -> BTreeMap<String, String> {
    let kernels = all().into_iter().flat_map(|case| case.kernels(caps));
    let named = kernels.map(|kernel| {
        let source = kernel.source();
        // Two variants may have the same parts and other constants.
        (format!("{}-{:08x}", kernel.name().replace('+', "-"), fnv1a(&source)), source)
    });
    named.collect()
}
