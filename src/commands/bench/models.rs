//! `kaleid bench --count` and `--cold`: what whole models are made of.

use anyhow::Result;
use kaleid::core::{
    Caps, Gpu, GpuOptions, Graph, Memory, Scratch, Weights, buffers, compile_each, dispatches, needs,
};
use kaleid::data::folder::Folder;
use kaleid::engines::model::{Model, SD15, Work};
use kaleid::engines::options::Options;
use kaleid::study::demo;
use std::path::Path;

/// Workgroups below which a dispatch leaves some cores of a graphics card idle: two for each of 64.
const FEW: usize = 128;

/// A part of a model, recorded, and the bytes of its weights.
type Recorded = (&'static str, Graph, usize);

fn model(name: &str) -> Result<Model> {
    match name {
        "" | "sd15" => Model::configured(&Folder::from(SD15)),
        name => Model::open(&demo::folder(Path::new(name), "stable-diffusion")?, &Options::default()),
    }
}

/// The parts of a model as they are recorded for one guided image of its own size.
fn parts(model: &Model, caps: &Caps) -> Result<Vec<Recorded>> {
    let work = Work { size: model.size(None)?, batch: 1, vae_batch: 1, guided: true, chunks: 1 };
    let part = |name, record: &dyn Fn(&Weights)| {
        let g = Graph::new(caps);
        let w = Weights::new(&g, caps.weights());
        record(&w);
        let weights = w.params().iter().map(|p| p.tensor.dtype().bytes(p.tensor.len())).sum();
        drop(w);
        (name, g, weights)
    };
    Ok(vec![
        part("text encoder", &|w| model.record_text(w)),
        part("context", &|w| model.record_context(w, work)),
        part("UNet", &|w| model.record_unet(w, work)),
        part("autoencoder", &|w| model.record_vae(w, work)),
    ])
}

/// Bytes that a painter with these parts takes at its peak, as [`kaleid::engines::painter`] has it: the text encoder leaves before the
/// others come, and these share what they can.
fn at_once(parts: &[Recorded]) -> usize {
    let (text, others) = parts.split_at(1);
    let scratch = Scratch::default();
    others.iter().for_each(|(_, g, _)| scratch.reserve(&buffers(g)));
    let kept = others.iter().fold(Memory::default(), |sum, (_, g, _)| sum + needs(g).memory);
    let painting = Memory { activation: scratch.bytes(), ..kept }.total();
    text.iter().map(|(_, g, _)| needs(g).memory.total()).fold(painting, usize::max)
}

/// Counts the dispatches of a model on each kind of device. Nothing is run.
pub fn count(name: &str, json: bool) -> Result<()> {
    let model = model(name)?;
    if !json {
        say!("device        part          dispatches    GFLOP       MB    least   in few   takes")?;
    }
    for (kind, caps) in Caps::kinds() {
        let parts = parts(&model, &caps)?;
        let at_once = at_once(&parts) as f64 / 1e6;
        for (part, g, weights) in parts {
            let all = dispatches(&g);
            if json {
                for d in &all {
                    let mut row = serde_json::to_value(d)?;
                    row["device"] = kind.into();
                    row["part"] = part.into();
                    say!("{row}")?;
                }
                continue;
            }
            let flops: f64 = all.iter().map(|d| d.flops).sum();
            let few: f64 = all.iter().filter(|d| d.groups < FEW).map(|d| d.flops).sum();
            let bytes: usize = all.iter().map(|d| d.bytes).sum();
            let least = weights + all.iter().map(|d| d.written).sum::<usize>();
            let (gflop, mb, least) = (flops / 1e9, bytes as f64 / 1e6, least as f64 / 1e6);
            let (n, few) = (all.len(), 100.0 * few / flops + 0.0);
            let takes = needs(&g).memory.total() as f64 / 1e6;
            say!(
                "{kind:<13} {part:<13} {n:>10} {gflop:>8.1} {mb:>8.0} {least:>8.0} {few:>7.1}% {takes:>7.0}"
            )?;
        }
        if !json {
            say!("{kind:<13} {:<13} {at_once:>54.0}", "at once")?;
        }
    }
    if !json {
        say!("MB: all that dispatches read and write. least: weights and results, each once.")?;
        say!("in few: share of the operations in dispatches of fewer than {FEW} workgroups.")?;
        say!("takes: MB of device memory, with weights. at once: what is there at the same time, at most.")?;
    }
    Ok(())
}

/// Compiles every kernel of a model, without what drivers kept from earlier runs, and says how long each took.
pub fn cold(name: &str, json: bool, options: &GpuOptions) -> Result<()> {
    // SAFETY: nothing else runs yet: adapters are listed, and threads started, below.
    unsafe { std::env::set_var("MESA_SHADER_CACHE_DISABLE", "true") };
    let gpu = Gpu::open(&GpuOptions { cold: true, ..options.clone() })?;
    let model = model(name)?;
    let parts = parts(&model, gpu.caps())?;
    let mut times = compile_each(&gpu, parts.iter().map(|(_, g, _)| g))?;
    times.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = times.iter().map(|t| t.1).sum();
    if !json {
        say!("{}: {} kernels in {total:.1} s, one after the other", gpu.caps().adapter, times.len())?;
        say!("{:>8}  kernel", "s")?;
    }
    for (kernel, seconds) in times {
        match json {
            true => say!(
                "{}",
                serde_json::json!({"kernel": kernel, "seconds": seconds, "adapter": gpu.caps().adapter})
            )?,
            false => say!("{seconds:>8.2}  {kernel}")?,
        }
    }
    Ok(())
}
