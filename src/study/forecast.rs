//! How long a run will take on this adapter, said before it is long.

use crate::core::{DType, Gpu, Graph, Plan, Store};
use crate::progress::duration;
use anyhow::Result;
use std::time::Instant;

/// Shorter runs show soon enough how long they take.
const LONG: f64 = 1800.0;
/// Side of the matrices whose product is timed.
const SIDE: usize = 512;
/// Share of that product's speed that a run of the demo reaches, data and compilation included (lavapipe: 0.46 with --quick).
const SHARE: f64 = 0.5;

/// Says how long `flops` operations will take, where that is more than half an hour.
///
/// # Errors
/// A device that fails.
pub fn say(gpu: &Gpu, flops: f64) -> Result<()> {
    if let Some(line) = line(flops / (SHARE * speed(gpu)?), &gpu.caps().adapter) {
        eprintln!("{line}");
    }
    Ok(())
}

fn line(seconds: f64, adapter: &str) -> Option<String> {
    let time = duration(seconds);
    (seconds > LONG).then(|| {
        format!("this will take about {time} on {adapter}; --quick, in another --out, shows all of it in a tenth of that or less")
    })
}

/// Floating point operations per second of a product of two matrices.
fn speed(gpu: &Gpu) -> Result<f64> {
    let g = Graph::new(gpu.caps());
    let input = |name| g.input(name, &[SIDE, SIDE], DType::F32);
    g.output("y", g.matmul(input("a"), input("b")));
    let mut plan = Plan::new(gpu, g, &Store::new(gpu))?;
    let mut best = f64::INFINITY;
    // The first run compiles.
    for _ in 0..4 {
        let start = Instant::now();
        plan.run()?;
        plan.read("y")?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(plan.flops() / best)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn only_what_takes_long_is_said() {
        assert_eq!(line(1700.0, "a card"), None);
        let said = line(3.0 * 3600.0, "a card").unwrap();
        assert!(said.contains("about 3 h 0 min on a card") && said.contains("--quick"), "{said}");
    }
}
