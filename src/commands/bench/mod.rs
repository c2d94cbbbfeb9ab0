//! `kaleid bench`

mod models;

use anyhow::{Context, Result, bail};
use kaleid::bench::{self, Case, Measured, Roofline};
use kaleid::core::{Caps, Gpu, GpuOptions, Kernels, OutOfMemory};
use kaleid::ops::tile_candidates;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Time kernels
///
/// Each case runs for about a second, and its best time is reported. The roofline column is the share of the adapter's measured peak,
/// in arithmetic or in memory traffic, whichever is larger.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid bench                              every case
  kaleid bench conv --json > before.jsonl   cases with conv in their name, for machines
  kaleid bench conv --compare before.jsonl  the same with the speed-up since then
  kaleid bench matmul_1024 --tune           the same product in sixty tiles, to see which is best here
  kaleid bench --dump wgsl                  the source of every kernel variant, for all kinds of devices
  kaleid bench --count                      dispatches and traffic of Stable Diffusion 1.5 on all kinds of devices
  kaleid bench --cold builtin               how long each kernel of the demo's painter takes to compile here")]
pub struct Args {
    /// Only the case of this name, or all cases whose names contain it; a model's folder, `sd15` or `builtin` for --count and --cold
    pattern: Option<String>,
    /// Print one JSON object per line: case, ms, gflops, gbs, roofline, adapter
    #[arg(long)]
    json: bool,
    /// Show the speed-up since an earlier run, from what its --json printed
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Time one case with every promising tile of its matrix products, and say which is best on this adapter
    #[arg(long, conflicts_with_all = ["json", "compare", "dump"])]
    tune: bool,
    /// Write the WGSL of every kernel variant as DIR/KERNEL.DEVICE.wgsl, with --kernels all also those for matrix units, and time
    /// nothing
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Count what the parts of a Stable Diffusion model take on each kind of device, and time nothing [default model: sd15]
    #[arg(long, conflicts_with_all = ["compare", "tune", "dump"])]
    count: bool,
    /// Compile every kernel of a Stable Diffusion model, without what was kept from earlier runs, slowest first [default model: sd15]
    #[arg(long, conflicts_with_all = ["compare", "tune", "dump", "count"])]
    cold: bool,
}

/// Runs the command.
pub fn run(args: Args, options: &GpuOptions) -> Result<()> {
    if let Some(dir) = &args.dump {
        return dump(dir, options.kernels);
    }
    let pattern = args.pattern.unwrap_or_default();
    if args.count {
        return models::count(&pattern, args.json);
    }
    if args.cold {
        return models::cold(&pattern, args.json, options);
    }
    let mut cases = bench::all();
    match cases.iter().position(|c| c.name == pattern) {
        Some(exact) => cases = vec![cases.swap_remove(exact)],
        None => cases.retain(|c| c.name.contains(&pattern)),
    }
    if cases.is_empty() {
        bail!("no case is called '{pattern}': `kaleid bench --json` without a name prints them all");
    }
    if args.tune {
        return tune(&cases, &Gpu::open(options)?);
    }
    let before = args.compare.as_deref().map(earlier).transpose()?.unwrap_or_default();

    let gpu = Gpu::open(options)?;
    let roofline = Roofline::measure(&gpu)?;
    if !args.json {
        say!("{}: at best {:.1} GFLOP/s, {:.1} GB/s", gpu.caps().adapter, roofline.gflops, roofline.gbs)?;
        say!("{:>10} {:>9} {:>8} {:>8} {:>8}  case", "ms", "GFLOP/s", "GB/s", "roofline", "speed-up")?;
    }
    let alone = cases.len() == 1;
    for case in cases {
        let m = match case.measure(&gpu) {
            Err(e) if !alone && e.downcast_ref::<OutOfMemory>().is_some() => {
                eprintln!("left out: {e:#}");
                continue;
            }
            measured => measured?,
        };
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

/// Tries every tile on one case. Nothing is kept: another tile adds in another order, and results would depend on a file that
/// nobody sees. What is better for a whole class of devices belongs into `ops/tuning.rs`.
fn tune(cases: &[Case], gpu: &Gpu) -> Result<()> {
    let [case] = cases else {
        let names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).take(5).collect();
        bail!("--tune takes the name of one case, such as {}", names.join(", "));
    };
    if !case.has_tiles(gpu.caps()) {
        bail!("{}: there is no matrix product or convolution in it to tune", case.name);
    }
    say!("{} on {}", case.name, gpu.caps().adapter)?;
    say!("{:>10} {:>9} {:>6}  threads, blocks of 4 x 4 a thread, slice", "ms", "GFLOP/s", "ratio")?;
    let table = case.measure(gpu)?;
    let line = |m: &Measured, ratio: f64, tile: &str| {
        say!("{:>10.3} {:>9.2} {ratio:>5.2}x  {tile}", m.seconds * 1e3, m.gflops())
    };
    line(&table, 1.0, "the table's choice")?;
    let words =
        |[wg_m, wg_n, r_i, r_j, k]: [usize; 5]| format!("{wg_m:>2} x {wg_n:>2}, {r_i} x {r_j}, {k:>2}");
    let mut best = (f64::MAX, None);
    for tile in tile_candidates(gpu.caps()) {
        let m = case.measure_with(gpu, Some(tile))?;
        line(&m, table.seconds / m.seconds, &words(tile))?;
        if m.seconds < best.0 {
            best = (m.seconds, Some(tile));
        }
    }
    // The fastest of many was lucky, too: what counts is a second measurement, side by side.
    let (Some(tile), table) = (best.1, case.measure(gpu)?) else { return Ok(()) };
    let again = case.measure_with(gpu, Some(tile))?;
    say!("best, and the table's choice, measured again:")?;
    line(&again, table.seconds / again.seconds, &words(tile))?;
    line(&table, 1.0, "the table's choice")
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

fn dump(dir: &Path, kernels: Kernels) -> Result<()> {
    kaleid::data::make_folder(dir)?;
    let optional = if kernels == Kernels::All { Caps::kinds_with_coop().to_vec() } else { vec![] };
    for (kind, caps) in Caps::kinds().into_iter().chain(optional) {
        let mut sources = bench::sources(&caps);
        if caps.coop.is_some() {
            sources.retain(|_, source| source.contains("\nenable "));
        }
        for (name, source) in &sources {
            kaleid::data::write_atomic(dir.join(format!("{name}.{kind}.wgsl")), source.as_bytes())?;
        }
        say!("{kind}: {} kernels", sources.len())?;
    }
    Ok(())
}
