//! Where the time of a run goes: by kernel and by scope.

use std::collections::HashMap;
use std::fmt;

/// Times of every dispatch of one run.
pub struct Profile {
    /// In execution order.
    pub rows: Vec<Row>,
}

/// One dispatch.
pub struct Row {
    /// Name of the kernel variant.
    pub kernel: String,
    /// Part of the model that recorded it.
    pub scope: String,
    /// Time on the device.
    pub seconds: f64,
    /// Floating point operations.
    pub flops: f64,
    /// Bytes of all tensors it was given.
    pub bytes: usize,
}

impl Profile {
    /// Time of the whole run, in seconds.
    pub fn seconds(&self) -> f64 {
        self.rows.iter().map(|r| r.seconds).sum()
    }

    /// Share of the time spent in kernels whose name starts with one of `names`.
    pub fn share(&self, names: &[&str]) -> f64 {
        let of = |r: &&Row| names.iter().any(|n| r.kernel.starts_with(n));
        self.rows.iter().filter(of).map(|r| r.seconds).sum::<f64>() / self.seconds()
    }

    /// Rows added up by `key`, slowest first.
    fn table(&self, f: &mut fmt::Formatter, title: &str, key: impl Fn(&Row) -> String) -> fmt::Result {
        let mut sums: HashMap<String, (usize, f64, f64, usize)> = HashMap::new();
        for r in &self.rows {
            let sum = sums.entry(key(r)).or_default();
            *sum = (sum.0 + 1, sum.1 + r.seconds, sum.2 + r.flops, sum.3 + r.bytes);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1).then_with(|| a.0.cmp(&b.0)));
        writeln!(f, "{:>6} {:>9} {:>6} {:>9} {:>8}  {title}", "calls", "ms", "share", "GFLOP/s", "GB/s")?;
        for (name, (calls, seconds, flops, bytes)) in sums {
            let (share, rate) = (100.0 * seconds / self.seconds(), 1e-9 / seconds.max(1e-12));
            let (gflops, gb) = (flops * rate, bytes as f64 * rate);
            writeln!(f, "{calls:>6} {:>9.3} {share:>5.1}% {gflops:>9.2} {gb:>8.2}  {name}", seconds * 1e3)?;
        }
        Ok(())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let flops: f64 = self.rows.iter().map(|r| r.flops).sum();
        let seconds = self.seconds();
        writeln!(
            f,
            "{} dispatches, {:.1} ms, {:.2} GFLOP, {:.2} GFLOP/s",
            self.rows.len(),
            seconds * 1e3,
            flops / 1e9,
            flops / 1e9 / seconds
        )?;
        self.table(f, "kernel", |r| r.kernel.clone())?;
        // Two levels of scope tell blocks of a model apart without drowning the reader.
        self.table(f, "scope", |r| r.scope.split('.').take(2).collect::<Vec<_>>().join("."))
    }
}
