//! The steps of a plan: live nodes with their pipelines and bindings, ready to be encoded at every run.

use super::gpu::Gpu;
use super::graph::{Graph, Inner, Node};
use super::layout::Layout;
use super::pipeline::{Key, Pipeline};
use anyhow::Result;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The numbers of all steps lie in one buffer, a slice of this many bytes each (the alignment that every device takes).
const PARAM_SLICE: usize = 256;
/// Seconds that a submit may take: Windows resets a GPU that is busy for 2, and a screen that shares it stands still meanwhile.
const SUBMIT: f64 = 0.1;
/// Workgroups that a piece of a dispatch has at least, so that no core is idle: two for each of 64.
const FILLED: u32 = 128;

/// One dispatch.
pub(super) struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    pub kernel: String,
    pub scope: Rc<str>,
    pub flops: f64,
    pub bytes: usize,
}

impl Step {
    pub fn encode(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

/// Part of a node that one dispatch does: all of it, or as much as takes no longer than a submit may.
struct Piece<'n> {
    node: &'n Node,
    /// The first of its workgroups.
    first: u32,
    grid: [u32; 3],
    /// How much of the node it is.
    share: f64,
}

/// The pieces of a node of so many bytes, on a device of this rate.
fn pieces(node: &Node, bytes: usize, rate: f64) -> Vec<Piece<'_>> {
    let [x, y, z] = node.grid;
    let (all, seconds) = (x * y, (node.flops + bytes as f64) / rate);
    let count = (seconds / SUBMIT).ceil().clamp(1.0, f64::from((all / FILLED).max(1))) as u32;
    if !node.in_pieces || count == 1 {
        return vec![Piece { node, first: 0, grid: node.grid, share: 1.0 }];
    }
    let size = all.div_ceil(count).min(65_535);
    let piece = |first: u32| {
        let n = size.min(all - first);
        Piece { node, first, grid: [n, 1, z], share: f64::from(n) / f64::from(all) }
    };
    (0..all).step_by(size as usize).map(piece).collect()
}

/// Compiles the live nodes and binds them to `buffers`, the buffer of each storage.
///
/// # Errors
/// A driver that refuses a kernel that is optional.
pub(super) fn steps(
    gpu: &Gpu,
    inner: &Inner,
    live: &[usize],
    buffers: &HashMap<usize, wgpu::Buffer>,
) -> Result<Vec<Step>> {
    let nodes: Vec<&Node> = live.iter().map(|&n| &inner.nodes[n]).collect();
    compile_all(gpu, &nodes);
    let rate = gpu.rate();
    let pieces: Vec<Piece> = nodes.iter().flat_map(|node| pieces(node, inner.bytes(node), rate)).collect();
    let params = upload_params(gpu, &pieces);
    let step = |(i, piece): (usize, &Piece)| {
        let node = piece.node;
        let pipeline = gpu.pipeline(key(node))?;
        let ids = || node.inputs.iter().chain(&node.outputs).copied();
        let slice = wgpu::BufferBinding {
            buffer: &params,
            offset: (i * PARAM_SLICE) as u64,
            size: std::num::NonZeroU64::new(PARAM_SLICE as u64),
        };
        let slice = std::iter::once(wgpu::BindingResource::Buffer(slice));
        let tensors = ids().map(|id| buffers[&inner.root(id)].as_entire_binding());
        let bind_group = bind(gpu, &pipeline, slice.chain(tensors));
        Ok(Step {
            pipeline,
            bind_group,
            grid: piece.grid,
            kernel: node.kernel.name(),
            scope: node.scope.clone(),
            flops: node.flops * piece.share,
            bytes: (inner.bytes(node) as f64 * piece.share) as usize,
        })
    };
    pieces.iter().enumerate().map(step).collect()
}

fn key(node: &Node) -> Key<'_> {
    (&node.kernel, node.inputs.len(), node.outputs.len())
}

/// Compiles every pipeline that the nodes need and that is not there yet, on all cores where the adapter can.
fn compile_all(gpu: &Gpu, nodes: &[&Node]) {
    let mut seen = HashSet::new();
    let keys: Vec<_> = nodes.iter().map(|n| key(n)).filter(|k| seen.insert(*k)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
            // What went wrong is said when the pipeline is used.
            let _ = gpu.pipeline(*key);
        }
    };
    if gpu.caps().parallel_compile {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(keys.len());
        std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    } else {
        work();
    }
    gpu.save_pipelines();
}

/// Compiles each kernel of these graphs by itself, and dispatches it once over no workgroup, since some drivers compile no sooner:
/// its name, and the seconds that it took.
///
/// # Errors
/// A device that fails.
pub fn compile_each<'g>(gpu: &Gpu, graphs: impl Iterator<Item = &'g Graph>) -> Result<Vec<(String, f64)>> {
    let [read, written] = [gpu.buffer("read", PARAM_SLICE)?, gpu.buffer("written", PARAM_SLICE)?];
    let params = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: PARAM_SLICE as u64,
        usage: wgpu::BufferUsages::UNIFORM,
        mapped_at_creation: false,
    });
    let (mut seen, mut times) = (HashSet::new(), vec![]);
    for graph in graphs {
        let inner = graph.inner.borrow();
        for node in Layout::new(&inner).live.iter().map(|&n| &inner.nodes[n]) {
            if !seen.insert((node.kernel.clone(), node.inputs.len())) {
                continue;
            }
            let start = Instant::now();
            let pipeline = gpu.pipeline(key(node))?;
            let bindings = std::iter::once(&params)
                .chain(std::iter::repeat_n(&read, node.inputs.len()))
                .chain(std::iter::repeat_n(&written, node.outputs.len()));
            let bind_group = bind(gpu, &pipeline, bindings.map(|b| b.as_entire_binding()));
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline.raw);
                pass.set_bind_group(0, &bind_group, &[]);
                pass.dispatch_workgroups(0, 1, 1);
            }
            gpu.queue().submit([encoder.finish()]);
            gpu.wait()?;
            gpu.check(|| node.kernel.name())?;
            times.push((node.kernel.name(), start.elapsed().as_secs_f64()));
        }
    }
    Ok(times)
}

fn bind<'b>(
    gpu: &Gpu,
    pipeline: &Pipeline,
    buffers: impl Iterator<Item = wgpu::BindingResource<'b>>,
) -> wgpu::BindGroup {
    let entries: Vec<_> = buffers
        .enumerate()
        .map(|(binding, resource)| wgpu::BindGroupEntry { binding: binding as u32, resource })
        .collect();
    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.layout,
        entries: &entries,
    })
}

/// The uniform buffer with the numbers of every step.
fn upload_params(gpu: &Gpu, pieces: &[Piece]) -> wgpu::Buffer {
    let params = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("parameters of all steps"),
        size: (pieces.len().max(1) * PARAM_SLICE) as u64,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut slices = vec![0u32; pieces.len() * PARAM_SLICE / 4];
    for (slice, Piece { node, first, .. }) in slices.chunks_exact_mut(PARAM_SLICE / 4).zip(pieces) {
        let numbers = node.params.iter().chain(node.in_pieces.then_some(first));
        slice.iter_mut().zip(numbers).for_each(|(to, number)| *to = *number);
    }
    gpu.queue().write_buffer(&params, 0, bytemuck::cast_slice(&slices));
    params
}

/// Indices at which to start a new submit, and the end: none is estimated to run longer than [`SUBMIT`]. `work`: operations and bytes of
/// each step; `rate`: as [`Gpu::rate`].
pub(super) fn split(work: impl Iterator<Item = (f64, usize)>, rate: f64) -> Vec<usize> {
    let (mut ends, mut count, mut seconds) = (vec![], 0, 0.0);
    for (flops, bytes) in work {
        let estimate = (flops + bytes as f64) / rate;
        if seconds > 0.0 && seconds + estimate > SUBMIT {
            ends.push(count);
            seconds = 0.0;
        }
        seconds += estimate;
        count += 1;
    }
    if count > 0 {
        ends.push(count);
    }
    ends
}

/// Runs the steps once and returns the seconds of each: by timestamps where the device has them, else by waiting after each.
pub(super) fn time(gpu: &Gpu, steps: &[Step]) -> Result<Vec<f64>> {
    if gpu.caps().timestamps { timestamps(gpu, steps) } else { submit_and_wait(gpu, steps) }
}

fn submit_and_wait(gpu: &Gpu, steps: &[Step]) -> Result<Vec<f64>> {
    gpu.wait()?;
    let time = |step: &Step| {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        step.encode(&mut encoder.begin_compute_pass(&Default::default()));
        let start = Instant::now();
        gpu.queue().submit([encoder.finish()]);
        gpu.wait()?;
        Ok(start.elapsed().as_secs_f64())
    };
    steps.iter().map(time).collect()
}

fn timestamps(gpu: &Gpu, all: &[Step]) -> Result<Vec<f64>> {
    const CHUNK: usize = 1024; // a query set holds at most 4096 timestamps
    let device = gpu.device();
    let mut seconds = Vec::with_capacity(all.len());
    for steps in all.chunks(CHUNK) {
        let count = 2 * steps.len() as u32;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("profile"),
            size: 8 * count as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        for (i, step) in steps.iter().enumerate() {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(&step.kernel),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                }),
            });
            step.encode(&mut pass);
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        gpu.queue().submit([encoder.finish()]);
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&gpu.download(&resolved, 8 * count as usize)?);
        let period = gpu.queue().get_timestamp_period() as f64 * 1e-9;
        seconds.extend(ticks.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Caps, GpuOptions, Plan, Store};
    use crate::ops::Conv;

    #[test]
    fn submits_end_before_100_ms_and_hold_at_least_one_step() {
        // At 1 GFLOP/s, so 40, 40, 40, 500 and 10 ms.
        let steps = [4e7, 4e7, 4e7, 5e8, 1e7].map(|flops| (flops, 0));
        assert_eq!(split(steps.into_iter(), 1e9), [2, 3, 4, 5]);
        assert_eq!(split([(0.0, 4); 1000].into_iter(), 1e9), [1000]);
        assert!(split([].into_iter(), 1e9).is_empty());
    }

    #[test]
    fn a_dispatch_in_pieces_makes_the_same_bits() {
        let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
        let usual = gpu.rate();
        let run = |caps: &Caps, rate: f64| {
            gpu.set_rate(rate);
            let g = Graph::new(caps);
            let numbers = |shape: &[usize]| {
                let n: usize = shape.iter().product();
                g.constant(
                    shape,
                    &(0..n).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect::<Vec<_>>(),
                )
            };
            let product = g.matmul(numbers(&[8192, 12]), numbers(&[12, 516]));
            let image = g.conv2d(numbers(&[4, 160, 160, 4]), numbers(&[64, 3, 3, 4]), Conv::same(3));
            let heads = numbers(&[1, 4096, 16, 4]);
            let keys = numbers(&[1, 8, 16, 4]);
            let attended = g.attention(heads, keys, keys, Default::default());
            let made = [("product", product), ("image", image), ("attended", attended)];
            made.iter().for_each(|(name, y)| g.output(name, *y));
            let mut plan = Plan::new(&gpu, g, &Store::new(&gpu)).unwrap();
            plan.run().unwrap();
            (plan.dispatches(), made.map(|(name, _)| plan.read(name).unwrap()))
        };
        let kinds = Caps::kinds();
        let cards = kinds.iter().filter(|(kind, _)| *kind == "integrated").map(|(_, caps)| caps);
        for caps in cards.chain([gpu.caps()]) {
            let (whole, results) = run(caps, usual);
            let (pieces, same) = run(caps, 1.0);
            assert!(whole == 3 && pieces >= 6, "{whole} dispatches, {pieces} in pieces");
            assert!(results == same, "pieces change a result");
            assert!(results.iter().flatten().any(|v| *v != 0.0));
        }
    }
}
