//! Where the time of runs goes: by kernel and by scope.

use std::collections::HashMap;
use std::fmt;

/// Times of the dispatches of one run or of many.
#[derive(Default)]
pub struct Profile {
    /// Of each kernel variant in each part of a model.
    rows: HashMap<(String, String), Row>,
}

/// Dispatches of one kernel variant in one part of a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// How many.
    pub calls: usize,
    /// Time on the device.
    pub seconds: f64,
    /// Floating point operations.
    pub flops: f64,
    /// Bytes of all tensors they were given.
    pub bytes: usize,
}

impl Row {
    fn add(&mut self, more: Row) {
        self.calls += more.calls;
        self.seconds += more.seconds;
        self.flops += more.flops;
        self.bytes += more.bytes;
    }
}

impl Profile {
    /// Adds what `kernel` did in `scope`.
    pub fn add(&mut self, kernel: &str, scope: &str, row: Row) {
        self.rows.entry((kernel.into(), scope.into())).or_default().add(row);
    }

    /// Adds another profile.
    pub fn merge(&mut self, other: &Profile) {
        other.rows.iter().for_each(|((kernel, scope), row)| self.add(kernel, scope, *row));
    }

    /// All dispatches together.
    pub fn total(&self) -> Row {
        let mut total = Row::default();
        self.rows.values().for_each(|row| total.add(*row));
        total
    }

    /// Share of the time spent in kernels whose name starts with one of `names`.
    pub fn share(&self, names: &[&str]) -> f64 {
        let of = |(kernel, _): &(String, String)| names.iter().any(|n| kernel.starts_with(n));
        let seconds: f64 = self.rows.iter().filter(|(key, _)| of(key)).map(|(_, r)| r.seconds).sum();
        seconds / self.total().seconds
    }

    /// Rows added up by `key` of (kernel, scope), slowest first.
    fn table(&self, f: &mut fmt::Formatter, title: &str, key: impl Fn(&str, &str) -> String) -> fmt::Result {
        let mut sums: HashMap<String, Row> = HashMap::new();
        for ((kernel, scope), row) in &self.rows {
            sums.entry(key(kernel, scope)).or_default().add(*row);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds).then_with(|| a.0.cmp(&b.0)));
        writeln!(f, "{:>7} {:>10} {:>6} {:>9} {:>8}  {title}", "calls", "ms", "share", "GFLOP/s", "GB/s")?;
        for (name, Row { calls, seconds, flops, bytes }) in sums {
            let (share, rate) = (100.0 * seconds / self.total().seconds, 1e-9 / seconds.max(1e-12));
            let (gflops, gb) = (flops * rate, bytes as f64 * rate);
            writeln!(f, "{calls:>7} {:>10.3} {share:>5.1}% {gflops:>9.2} {gb:>8.2}  {name}", seconds * 1e3)?;
        }
        Ok(())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Row { calls, seconds, flops, .. } = self.total();
        let (ms, gflop, rate) = (seconds * 1e3, flops / 1e9, flops / 1e9 / seconds);
        writeln!(f, "{calls} dispatches, {ms:.1} ms, {gflop:.2} GFLOP, {rate:.2} GFLOP/s")?;
        self.table(f, "kernel", |kernel, _| kernel.into())?;
        // Two levels of scope tell blocks of a model apart without drowning the reader.
        self.table(f, "scope", |_, scope| scope.split('.').take(2).collect::<Vec<_>>().join("."))
    }
}
