//! How long a run will take on this adapter, said before it is long, and what it will do.

use super::config::Study;
use super::stages::Run;
use crate::core::{DType, Gpu, GpuOptions, Graph, Plan, Store};
use crate::progress::duration;
use crate::sweep::model_bytes;
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

/// A line for each stage of a run, and what all of them need.
///
/// # Errors
/// What would stop one of them.
pub fn plan(gpu: &Gpu, adapter: &GpuOptions, study: &Study, run: &Run) -> Result<Vec<String>> {
    let work = run.check(gpu, adapter)?;
    let ([images, unpainted], [trainings, untrained]) = (run.images()?, work.trainings);
    let [[height, width], saved] = run.sizes()?;
    let (compare, steps) = (&study.compare, study.train.steps());
    let rate = SHARE * speed(gpu)?;
    let scored = run.is_scored();
    let painting = if scored { 0.0 } else { unpainted as f64 * work.image / rate };
    let training = work.training / rate;
    let left = |n: usize, seconds: f64| match n {
        0 => "done".to_string(),
        n => format!("{n} left, about {}", duration(seconds)),
    };
    let about = if run.has_prompts() { "" } else { "about " };
    let variants: Vec<&str> = compare.variants.iter().map(|v| v.name()).collect();
    let [gb, models] = [
        (images * saved.iter().product::<usize>() * 3) as f64 / 1e9,
        model_bytes(&study.train).map_or(0.0, |bytes| (bytes * trainings as u64) as f64 / 1e9),
    ];
    let (speed, adapter) = (rate / SHARE / 1e9, &gpu.caps().adapter);
    Ok(vec![
        format!("{adapter}: {speed:.1} GFLOP/s in a product of {SIDE}, of which {SHARE} are reckoned with"),
        format!(
            "prompts   {about}{images} by {}{}",
            study.prompts.llm,
            if run.has_prompts() { ": done" } else { "" }
        ),
        format!(
            "images    {about}{images} of {width}x{height}: {}",
            left(if scored { 0 } else { unpainted }, painting)
        ),
        format!("score     {}", if scored { "done" } else { "once the images are painted" }),
        format!(
            "training  {trainings} of {steps} steps ({} test domains, {}, on {}, {} seeds): {}",
            trainings
                / (compare.algorithms.len() * compare.variants.len()).max(1)
                / (compare.seeds as usize).max(1),
            compare.algorithms.join(" "),
            variants.join(" "),
            compare.seeds,
            left(untrained, training)
        ),
        format!("memory    {} MiB to paint, {} MiB to train", work.painter >> 20, work.update >> 20),
        format!("disk      {gb:.2} GB of images at most, {models:.2} GB of models"),
        format!("in all    about {} (predicted)", duration(painting + training)),
    ])
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
