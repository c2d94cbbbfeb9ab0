//! What several trainings say together. Spread is divided by n - 1, intervals and tests are Student's, and what is compared is paired:
//! two trainings of one seed share their split, so that their difference is what the choice between them made.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Share of intervals that hold the truth.
const SURE: f64 = 0.95;
/// A difference that chance alone makes less often than this is called real.
pub const REAL: f64 = 0.05;

/// The mean of several values and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Standard deviation (n - 1) over the root of n; none of one value.
    pub standard_error: Option<f64>,
    /// Half of the width of the 95 % interval, by Student's t; none of one value.
    pub half_width: Option<f64>,
}

impl Mean {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Mean {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let standard_error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        let half_width = standard_error.map(|e| e * quantile((1.0 + SURE) / 2.0, n - 1.0));
        Mean { mean, standard_error, half_width }
    }

    /// How often chance alone makes a mean as far from 0 as this one of `n` values (two-sided t test); none of one value.
    pub fn p(&self, n: usize) -> Option<f64> {
        let error = self.standard_error?;
        if error == 0.0 {
            return Some(if self.mean == 0.0 { 1.0 } else { 0.0 });
        }
        let t = StudentsT::new(0.0, 1.0, n as f64 - 1.0).ok()?;
        Some(2.0 * t.cdf(-(self.mean / error).abs()))
    }
}

impl std::fmt::Display for Mean {
    /// In percent, with the standard error.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:.1}", 100.0 * self.mean)?;
        match self.standard_error {
            Some(error) => write!(f, " ± {:.1} %", 100.0 * error),
            None => f.write_str(" %"),
        }
    }
}

/// The value below which Student's t with these degrees of freedom is with probability `p`.
fn quantile(p: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |t| t.inverse_cdf(p))
}

/// What differences, each of one seed and split, say: `+3.1 points, 95 % interval -0.4 to +6.6, paired over 3 seeds, p = 0.064: chance
/// could do that`.
pub fn verdict(differences: &[f64]) -> String {
    let (mean, n) = (Mean::of(differences), differences.len());
    let points = format!("{:+.1} points", 100.0 * mean.mean);
    let (Some(half), Some(p)) = (mean.half_width, mean.p(n)) else {
        return format!("{points} (one seed: no interval)");
    };
    let [low, high] = [mean.mean - half, mean.mean + half].map(|v| 100.0 * v);
    let p_text = if p < 0.001 { "p < 0.001".to_string() } else { format!("p = {p:.3}") };
    let says = if p < REAL { "real" } else { "chance could do that" };
    format!("{points}, 95 % interval {low:+.1} to {high:+.1}, paired over {n} seeds, {p_text}: {says}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_p_values_are_those_of_tables() {
        for (p, freedom, t) in [
            (0.975, 1.0, 12.706_205),
            (0.975, 2.0, 4.302_653),
            (0.975, 4.0, 2.776_445),
            (0.95, 10.0, 1.812_461),
        ] {
            assert!((quantile(p, freedom) - t).abs() < 2e-6, "{p} {freedom}: {}", quantile(p, freedom));
        }
        // scipy.stats.ttest_1samp([1, 2, 3, 4, 6], 0): t = 3.7204, p = 0.0205.
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0, 6.0]);
        assert!((mean.mean - 3.2).abs() < 1e-12 && (mean.standard_error.unwrap() - 0.860_232_5).abs() < 1e-6);
        assert!((mean.p(5).unwrap() - 0.020_48).abs() < 1e-4, "{:?}", mean.p(5));
        assert_eq!(Mean::of(&[0.5]), Mean { mean: 0.5, standard_error: None, half_width: None });
        assert_eq!((Mean::of(&[0.5]).p(1), Mean::of(&[0.0, 0.0]).p(2)), (None, Some(1.0)));
    }

    #[test]
    fn nothing_is_called_real_that_chance_does_once_in_twenty() {
        assert_eq!(verdict(&[0.031]), "+3.1 points (one seed: no interval)");
        let unsure = verdict(&[0.10, -0.02, 0.05]);
        assert!(
            unsure.ends_with(": chance could do that") && unsure.contains("paired over 3 seeds, p = 0.3"),
            "{unsure}"
        );
        let sure = verdict(&[0.10, 0.11, 0.12, 0.10]);
        assert!(
            sure.ends_with(": real") && sure.starts_with("+10.8 points, 95 % interval +9.2 to +12.3"),
            "{sure}"
        );
    }
}
