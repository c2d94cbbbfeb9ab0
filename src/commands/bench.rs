//! `kaleid bench`

use anyhow::{Context, Result, bail};
use kaleid::core::{Class, Gpu, GpuOptions};
use kaleid::pipeline::bench::{self, Measured, Roofline};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Time kernels
///
/// Each case runs for about a second; its best time counts. The roofline column is the share of what the adapter can do at best,
/// in arithmetic or in memory traffic, whichever is larger.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid bench                              every case
  kaleid bench conv --json > before.jsonl   cases with conv in their name, for machines
  kaleid bench conv --compare before.jsonl  the same with the speed-up since then
  kaleid bench --dump wgsl                  the source of every kernel variant, for all classes of devices")]
pub struct Args {
    /// Only this case, or all whose names contain this
    pattern: Option<String>,
    /// Print one JSON object a line: case, ms, gflops, gbs, roofline, adapter
    #[arg(long)]
    json: bool,
    /// Compare with what an earlier --json printed
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Measure nothing: write the WGSL of every kernel variant as DIR/KERNEL.CLASS.wgsl
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args, options: &GpuOptions) -> Result<()> {
    if let Some(dir) = &args.dump {
        return dump(dir);
    }
    let pattern = args.pattern.unwrap_or_default();
    let mut cases = bench::all();
    match cases.iter().position(|c| c.name == pattern) {
        Some(exact) => cases = vec![cases.swap_remove(exact)],
        None => cases.retain(|c| c.name.contains(&pattern)),
    }
    if cases.is_empty() {
        bail!("no case is called '{pattern}': `kaleid bench --json` without a name prints them all");
    }
    let before = args.compare.as_deref().map(earlier).transpose()?.unwrap_or_default();

    let gpu = Gpu::open(options)?;
    let roofline = Roofline::measure(&gpu)?;
    if !args.json {
        say!("{}: at best {:.1} GFLOP/s, {:.1} GB/s", gpu.caps().adapter, roofline.gflops, roofline.gbs)?;
        say!("{:>10} {:>9} {:>8} {:>8} {:>8}  case", "ms", "GFLOP/s", "GB/s", "roofline", "speed-up")?;
    }
    for case in cases {
        let m = case.measure(&gpu)?;
        let ms = m.seconds * 1e3;
        let speedup = before.get(&case.name).map(|old| old / ms);
        if args.json {
            say!("{}", json(&case.name, &m, &roofline, speedup, &gpu.caps().adapter))?;
            continue;
        }
        let speedup = speedup.map_or(String::new(), |s| format!("{s:.2}x"));
        let share = 100.0 * roofline.share(&m);
        let more = match case.name == "replay" {
            true => format!(", {:.2} us of host time a dispatch", host_us(&m)),
            false => String::new(),
        };
        let (gflops, gbs, name) = (m.gflops(), m.gbs(), &case.name);
        say!("{ms:>10.3} {gflops:>9.2} {gbs:>8.2} {share:>7.1}% {speedup:>8}  {name}{more}")?;
    }
    Ok(())
}

fn host_us(m: &Measured) -> f64 {
    m.host_seconds * 1e6 / m.dispatches as f64
}

fn json(
    case: &str,
    m: &Measured,
    roofline: &Roofline,
    speedup: Option<f64>,
    adapter: &str,
) -> serde_json::Value {
    let mut row = serde_json::json!({
        "case": case,
        "ms": m.seconds * 1e3,
        "gflops": m.gflops(),
        "gbs": m.gbs(),
        "roofline": roofline.share(m),
        "host_us_per_dispatch": host_us(m),
        "adapter": adapter,
    });
    if let Some(speedup) = speedup {
        row["speedup"] = speedup.into();
    }
    row
}

/// Milliseconds by case.
fn earlier(path: &Path) -> Result<HashMap<String, f64>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut rows = HashMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let (Some(case), Some(ms)) = (row["case"].as_str(), row["ms"].as_f64()) else {
            bail!(
                "{}, line {}: no case and ms here; give what `kaleid bench --json` printed",
                path.display(),
                i + 1
            );
        };
        rows.insert(case.to_string(), ms);
    }
    Ok(rows)
}

fn dump(dir: &Path) -> Result<()> {
    kaleid::data::make_folder(dir)?;
    for class in Class::ALL {
        let sources = bench::sources(class);
        for (name, source) in &sources {
            kaleid::data::write_atomic(dir.join(format!("{name}.{class}.wgsl")), source.as_bytes())?;
        }
        say!("{class}: {} kernels", sources.len())?;
    }
    Ok(())
}
