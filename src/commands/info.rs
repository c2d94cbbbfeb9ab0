//! `kaleid info`

use anyhow::Result;
use kaleid::core::{Caps, Gpu, GpuOptions};
use kaleid::ops::tiles;

/// List the adapters: limits, abilities, and the kernel variants chosen for them
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid info
  kaleid info --backend gl --json")]
pub struct Args {
    /// Print one JSON array instead of lines
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, options: &GpuOptions) -> Result<()> {
    let chosen = Gpu::open(options)?.caps().adapter.clone();
    let all = Gpu::list(options.backend);
    if args.json {
        let rows: Vec<_> =
            all.iter().enumerate().map(|(i, caps)| json(i, caps, caps.adapter == chosen)).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    for (i, caps) in all.iter().enumerate() {
        say!("{i}: {}{}", caps.adapter, if caps.adapter == chosen { "  <- used" } else { "" })?;
        say!("   class      {}, {}; matrix products: {}", caps.class, caps.arch, tiles(caps))?;
        say!("   abilities  {}", abilities(caps).join(", "))?;
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
        "tiles": tiles(caps),
        "abilities": abilities(caps),
        "max_buffer_size": caps.buffer_bytes,
        "max_storage_buffer_binding_size": caps.binding_bytes,
        "max_storage_buffers_per_shader_stage": caps.bindings,
        "max_compute_invocations_per_workgroup": caps.invocations,
        "max_compute_workgroup_storage_size": caps.workgroup_bytes,
    })
}
