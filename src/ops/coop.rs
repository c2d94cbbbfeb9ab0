//! Opening a device: kernels that need more than WebGPU's core are tested on it once, and what came of it is kept.

use super::Attention;
use crate::core::{Caps, DType, Gpu, GpuOptions, Graph, Plan, Store};
use crate::data::rng::fnv1a;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Sizes that fit no tile.
const M: usize = 333;
const N: usize = 260;
const K: usize = 340;
/// Runs whose bits are compared.
const RUNS: usize = 20;
/// Largest difference from the plain kernel, of the largest number: what rounding to f16 explains.
const ALLOWED: f32 = 2e-3;

impl Gpu {
    /// Opens the adapter that `options` name, else the best one: graphics cards before integrated GPUs before software.
    ///
    /// # Errors
    /// No adapter at all (says what to install), none that matches, or a device that cannot be opened.
    pub fn open(options: &GpuOptions) -> Result<Gpu> {
        let gpu = Gpu::open_untested(options)?;
        if gpu.caps().coop.is_none() {
            return Ok(gpu);
        }
        let kept = kept(gpu.caps());
        let outcome = match kept.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
            Some(text) => text,
            None => {
                let outcome = test(&gpu).map_or_else(|e| format!("{e:#}"), |()| String::new());
                if let Some(path) = kept {
                    // Where it cannot be kept, it is tested again.
                    let _ = crate::data::write_atomic(path, outcome.as_bytes());
                }
                outcome
            }
        };
        if outcome.is_empty() {
            return Ok(gpu);
        }
        eprintln!("{}: matrix units failed their test and are not used: {outcome}", gpu.caps().adapter);
        // A device that broke in the test is not used any further.
        drop(gpu);
        Ok(Gpu::open_untested(options)?.without_coop(outcome))
    }
}

/// Where the outcome for this adapter, driver and kernel is kept: an empty file where it passed, else what went wrong.
fn kept(caps: &Caps) -> Option<PathBuf> {
    let sources: String = recorded(caps).kernels().iter().map(|kernel| kernel.source()).collect();
    let key = fnv1a(&format!("{} {sources}", caps.adapter));
    Some(dirs::cache_dir()?.join("kaleid").join("kernels").join(format!("{key:08x}")))
}

/// A product of f32 and f16 numbers, and attention of f16 numbers.
fn recorded(caps: &Caps) -> Graph {
    let g = Graph::new(caps);
    let input = |name: &str, shape: &[usize]| g.input(name, shape, DType::F32);
    let b = g.to(input("b", &[N, K]), DType::F16);
    // Near 1, so that softmax makes little of small differences.
    let y = g.scale(g.linear(input("a", &[M, K]), b, Some(input("bias", &[N]))), 1.0 / 16.0);
    g.output("product", y);
    // Two heads of 40 columns, of three parts of 80.
    let y = g.to(g.reshape(y, &[1, M, N]), DType::F16);
    let [q, k, v] = [0, 1, 2].map(|i| g.reshape(g.slice(y, 2, 80 * i, 80), &[1, M, 2, 40]));
    let attended = g.reshape(g.attention(q, k, v, Attention::default()), &[M, 80]);
    g.output("attention", g.to(attended, DType::F32));
    g
}

/// What is [`recorded`], several times, both results one after the other.
fn run(gpu: &Gpu, caps: &Caps, runs: usize) -> Result<Vec<Vec<f32>>> {
    let mut plan = Plan::new(gpu, recorded(caps), &Store::new(gpu))?;
    let numbers =
        |n: usize, by: usize| -> Vec<f32> { (0..n).map(|i| (i * by % 1009) as f32 / 504.5 - 1.0).collect() };
    plan.write("a", &numbers(M * K, 7919))?;
    plan.write("b", &numbers(N * K, 6007))?;
    plan.write("bias", &numbers(N, 31))?;
    let both = |_| {
        plan.run()?;
        Ok([plan.read("product")?, plan.read("attention")?].concat())
    };
    (0..runs).map(both).collect()
}

/// Sees that matrix units give what the plain kernel gives, and the same bits each time.
fn test(gpu: &Gpu) -> Result<()> {
    let plain = run(gpu, &Caps { coop: None, ..gpu.caps().clone() }, 1)?.remove(0);
    let runs = run(gpu, gpu.caps(), RUNS)?;
    let largest = plain.iter().fold(0f32, |most, v| most.max(v.abs()));
    let right = |(got, want): (&f32, &f32)| (got - want).abs() <= ALLOWED * largest;
    let wrong = runs[0].iter().zip(&plain).filter(|&pair| !right(pair)).count();
    if wrong > 0 {
        bail!("{wrong} of {} numbers of a product and of attention are wrong", plain.len());
    }
    let differ =
        runs[1..].iter().filter(|run| run.iter().zip(&runs[0]).any(|(a, b)| a.to_bits() != b.to_bits()));
    match differ.count() {
        0 => Ok(()),
        n => bail!("{n} of {} equal runs differ", RUNS - 1),
    }
}
