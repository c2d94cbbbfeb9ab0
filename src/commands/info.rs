//! `kaleid info`

use anyhow::Result;
use kaleid::core::{Caps, Gpu, GpuOptions};
use kaleid::hub;
use kaleid::ops::tiles;
use kaleid::paint::about::about;
use std::path::PathBuf;

/// List the adapters, or say what a model or a painted image is
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid info                             adapters: limits, abilities, and the kernel variants chosen for them
  kaleid info v1-5-pruned.safetensors     what a file or folder of weights is, holds, and needs
  kaleid info images/00000.png            the command that paints an image again")]
pub struct Args {
    /// A model, a file of weights, or a painted image
    #[arg(value_name = "DIR|FILE")]
    what: Option<PathBuf>,
    /// Print one JSON array instead of lines
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, options: &GpuOptions) -> Result<()> {
    if let Some(what) = &args.what {
        let found = about(&hub::path(what)?, options)?;
        if args.json {
            let found: serde_json::Map<_, _> =
                found.into_iter().map(|(k, v)| (k.to_string(), v.into())).collect();
            return say!("{}", serde_json::Value::Object(found));
        }
        return found.iter().try_for_each(|(key, text)| say!("{key:10} {text}"));
    }
    let (mut all, chosen) = Gpu::list(options)?;
    // Opened, for its optional kernels may not pass their test.
    all[chosen] = Gpu::open(options)?.caps().clone();
    if args.json {
        let rows: Vec<_> = all.iter().enumerate().map(|(i, caps)| json(i, caps, i == chosen)).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    for (i, caps) in all.iter().enumerate() {
        say!("{i}: {}{}", caps.adapter, if i == chosen { "  <- used" } else { "" })?;
        let [least, most] = caps.subgroup;
        say!("   class      {}, {}; subgroups of {least} to {most} threads", caps.class, caps.arch)?;
        say!("   abilities  {}", abilities(caps).join(", "))?;
        say!("   matrices   {}", matrices(caps))?;
        for (what, tile) in tiles(caps) {
            say!("   kernels    {what}: {tile}")?;
        }
        say!("   limits     {}", limits(caps))?;
    }
    Ok(())
}

fn abilities(caps: &Caps) -> Vec<&'static str> {
    let all = [
        (caps.f16, "f16"),
        (caps.subgroups, "subgroups"),
        (caps.timestamps, "timestamps"),
        (caps.pipeline_cache, "pipeline cache"),
        (caps.parallel_compile, "parallel compiling"),
    ];
    all.into_iter().filter(|a| a.0).map(|a| a.1).collect()
}

/// Matrix units: what is listed, and what is used of it.
fn matrices(caps: &Caps) -> String {
    let listed = if caps.matrices.is_empty() { "none listed".into() } else { caps.matrices.join(", ") };
    match caps.coop {
        Some(c) => format!("{listed}; used: {0}x{0}x{0} f16 -> f32 by {1} threads", c.size, c.subgroup),
        None if caps.matrices.is_empty() => listed,
        None => format!("{listed}; not used: {}", caps.no_coop),
    }
}

fn limits(caps: &Caps) -> String {
    format!(
        "buffer {} MiB, binding {} MiB, {} bindings, {} invocations, {} KiB of workgroup memory",
        caps.buffer_bytes >> 20,
        caps.binding_bytes >> 20,
        caps.bindings,
        caps.invocations,
        caps.workgroup_bytes >> 10
    )
}

fn json(index: usize, caps: &Caps, used: bool) -> serde_json::Value {
    serde_json::json!({
        "index": index,
        "adapter": caps.adapter,
        "used": used,
        "class": caps.class.to_string(),
        "arch": caps.arch.to_string(),
        "subgroup_sizes": caps.subgroup,
        "kernels": tiles(caps).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "matrices": caps.matrices,
        "matrices_used": caps.coop.map(|c| format!("{0}x{0}x{0}", c.size)),
        "abilities": abilities(caps),
        "max_buffer_size": caps.buffer_bytes,
        "max_storage_buffer_binding_size": caps.binding_bytes,
        "max_storage_buffers_per_shader_stage": caps.bindings,
        "max_compute_invocations_per_workgroup": caps.invocations,
        "max_compute_workgroup_storage_size": caps.workgroup_bytes,
    })
}
