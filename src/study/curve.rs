//! Diversity as a curve: Score(s) at ten amounts s of generated images, the cubic through it, and where that is largest.

use crate::data::rng::Key;
use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Amounts at which Score(s) is measured.
const STEPS: usize = 10;
/// Score(s) is a mean over this many orders in which the generated images join.
const ORDERS: u32 = 8;
/// Resamples of the images, from whose optima the interval follows.
const RESAMPLES: u32 = 200;

/// Score(s) of generated images, part of diversity.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Score(0): the originals alone.
    pub originals: f64,
    /// (s, Score(s)) for ten amounts up to 100 %, or to the images there are.
    pub points: Vec<(f64, f64)>,
    /// Score(s) ~ c0 + c1 s + c2 s^2 + c3 s^3.
    pub cubic: [f64; 4],
    /// How much of the points' variance the cubic explains.
    #[serde(default)]
    pub r2: f64,
    /// Where the cubic is largest.
    pub optimum: Optimum,
    /// Where 95 % of the optima of resampled images lie (bootstrap, percentiles).
    #[serde(default)]
    pub interval: [f64; 2],
}

/// The best amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Optimum {
    /// The amount.
    pub s: f64,
    /// The cubic there.
    pub score: f64,
    /// Whether it is a maximum inside the range; else the better end.
    pub interior: bool,
}

impl std::fmt::Display for Optimum {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let kind = if self.interior { "a maximum inside the range" } else { "the better end of the range" };
        write!(f, "{:.1} %, {kind}", 100.0 * self.s)
    }
}

/// Embeddings of a domain's originals, and of the images generated in its style.
pub type Pair<'a> = (Vec<&'a [f32]>, Vec<&'a [f32]>);

impl Curve {
    /// The curve of at least one domain. `trace` is as in [`variance`]; `seed` decides the orders in which images join.
    pub fn new(domains: &[Pair], trace: bool, seed: u64) -> Curve {
        let most = domains.iter().map(|(own, more)| more.len() as f64 / own.len() as f64).fold(1.0, f64::min);
        let points = |domains: &[Pair], orders: Range<u32>| -> Vec<(f64, f64)> {
            let amounts = (1..=STEPS).map(|i| most * i as f64 / STEPS as f64);
            amounts.map(|s| (s, score(domains, s, trace, seed, orders.clone()))).collect()
        };
        let best = |cubic| optimum(cubic, [most / STEPS as f64, most]);
        let resampled = |i: u32| {
            let drawn: Vec<Pair> = (0..domains.len()).map(|d| resample(&domains[d], seed, i, d)).collect();
            best(fit_cubic(&points(&drawn, i..i + 1))).s
        };
        let mut optima: Vec<f64> = (0..RESAMPLES).into_par_iter().map(resampled).collect();
        optima.sort_by(f64::total_cmp);
        let percentile = |p: f64| optima[(p * f64::from(RESAMPLES - 1)).round() as usize];
        let points = points(domains, 0..ORDERS);
        let cubic = fit_cubic(&points);
        Curve {
            originals: mean(&domains.iter().map(|(own, _)| variance(own, trace)).collect::<Vec<_>>()),
            r2: explained(&points, cubic),
            points,
            cubic,
            optimum: best(cubic),
            interval: [0.025, 0.975].map(percentile),
        }
    }

    /// A picture of the points, the cubic and its optimum.
    ///
    /// # Errors
    /// None that we know of: it is drawn in memory.
    pub fn svg(&self) -> Result<String> {
        use plotters::prelude::*;
        let mut svg = String::new();
        let drawn = || -> Result<(), Box<dyn std::error::Error>> {
            let area = SVGBackend::with_string(&mut svg, (640, 400)).into_drawing_area();
            area.fill(&WHITE)?;
            let [from, to] = [self.points[0].0, self.points[STEPS - 1].0];
            let along = (0..=100).map(|i| from + (to - from) * f64::from(i) / 100.0);
            let curve: Vec<(f64, f64)> = along.map(|s| (100.0 * s, cubic_at(self.cubic, s))).collect();
            let points: Vec<(f64, f64)> = self.points.iter().map(|(s, y)| (100.0 * s, *y)).collect();
            let all = || points.iter().chain(&curve).map(|p| p.1).chain([self.originals]);
            let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
            let margin = ((high - low) * 0.1).max(high.abs() * 1e-6).max(1e-12);
            let mut chart = ChartBuilder::on(&area)
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(80)
                .build_cartesian_2d(0.0..105.0 * to, low - margin..high + margin)?;
            chart
                .configure_mesh()
                .x_desc("generated images, % of the originals")
                .y_desc("Score(s)")
                .y_label_formatter(&|y| format!("{y:.3e}"))
                .light_line_style(WHITE)
                .draw()?;
            let blue = RGBColor(40, 90, 170);
            chart.draw_series(LineSeries::new(curve, blue.stroke_width(2)))?;
            chart.draw_series(points.iter().map(|&p| Circle::new(p, 4, blue.filled())))?;
            chart.draw_series([Circle::new((0.0, self.originals), 4, BLACK.stroke_width(1))])?;
            let (best, red) = (100.0 * self.optimum.s, RGBColor(190, 50, 40));
            chart.draw_series(LineSeries::new(
                [(best, low - margin), (best, self.optimum.score)],
                red.stroke_width(1),
            ))?;
            let place = (if self.optimum.s > 0.7 * to { best - 22.0 * to } else { best + to }, low);
            let font = ("sans-serif", 14).into_font().color(&red);
            chart.draw_series([Text::new(format!("optimum {best:.1} %"), place, font)])?;
            area.present()?;
            Ok(())
        };
        let drawn = { drawn }();
        drawn.map_err(|e| anyhow::anyhow!("{e}")).context("cannot draw diversity.svg")?;
        Ok(svg)
    }
}

/// Biased variance of rows: mean, or with `trace` sum, over their dimensions.
pub fn variance(rows: &[&[f32]], trace: bool) -> f64 {
    let Some(width) = rows.first().map(|r| r.len()) else { return 0.0 };
    let n = rows.len() as f64;
    let one = |d: usize| {
        let mean = rows.iter().map(|r| f64::from(r[d])).sum::<f64>() / n;
        rows.iter().map(|r| (f64::from(r[d]) - mean).powi(2)).sum::<f64>() / n
    };
    (0..width).map(one).sum::<f64>() / if trace { 1.0 } else { width as f64 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Score(s): the mean over domains of the variance of the originals with s x |originals| generated images.
fn score(domains: &[Pair], s: f64, trace: bool, seed: u64, orders: Range<u32>) -> f64 {
    let joined = |d: usize, order: u32| {
        let (own, more) = &domains[d];
        let order = Key::new(seed, order, &format!("score {d}")).permutation(more.len());
        let amount = (s * own.len() as f64).round() as usize;
        let all = own.iter().copied().chain(order[..amount].iter().map(|&i| more[i]));
        variance(&all.collect::<Vec<_>>(), trace)
    };
    let mean_of = |order: u32| mean(&(0..domains.len()).map(|d| joined(d, order)).collect::<Vec<_>>());
    mean(&orders.map(mean_of).collect::<Vec<_>>())
}

/// As many images of a domain, drawn from its own with replacement.
fn resample<'a>((own, more): &Pair<'a>, seed: u64, i: u32, domain: usize) -> Pair<'a> {
    let draw = |of: &[&'a [f32]], what: &str| {
        let key = Key::new(seed, i, &format!("resample {domain} {what}"));
        (0..of.len() as u32).map(|k| of[key.below(k, of.len() as u32) as usize]).collect()
    };
    (draw(own, "originals"), draw(more, "generated"))
}

/// R squared.
fn explained(points: &[(f64, f64)], cubic: [f64; 4]) -> f64 {
    let middle = mean(&points.iter().map(|(_, y)| *y).collect::<Vec<_>>());
    let all: f64 = points.iter().map(|(_, y)| (y - middle).powi(2)).sum();
    let left: f64 = points.iter().map(|(s, y)| (y - cubic_at(cubic, *s)).powi(2)).sum();
    if all > 0.0 { 1.0 - left / all } else { 1.0 }
}

/// The Vendi score of rows of length 1 (Friedman & Dieng 2023): how many different ones there are, in effect; from 1, where all are equal, to
/// their number. exp of the entropy of the eigenvalues of their cosines by their number.
pub fn vendi(rows: &[&[f32]]) -> f64 {
    let Some(width) = rows.first().map(|row| row.len()) else { return 0.0 };
    // The width^2 products have the same eigenvalues, but for zeros.
    let one = |a: usize| {
        let with = |b: usize| rows.iter().map(|row| f64::from(row[a]) * f64::from(row[b])).sum::<f64>();
        (0..width).map(|b| with(b) / rows.len() as f64).collect()
    };
    let products: Vec<Vec<f64>> = (0..width).into_par_iter().map(one).collect();
    let values = eigenvalues(products);
    values.into_iter().filter(|&v| v > 1e-12).map(|v| -v * v.ln()).sum::<f64>().exp()
}

/// Eigenvalues of a symmetric matrix, by Jacobi's rotations.
fn eigenvalues(mut m: Vec<Vec<f64>>) -> Vec<f64> {
    let n = m.len();
    for _ in 0..30 {
        let off: f64 = (0..n).flat_map(|a| (0..a).map(move |b| (a, b))).map(|(a, b)| m[a][b].powi(2)).sum();
        if off < 1e-18 {
            break;
        }
        for a in 0..n {
            for b in a + 1..n {
                if m[a][b].abs() < 1e-15 {
                    continue;
                }
                let theta = (m[b][b] - m[a][a]) / (2.0 * m[a][b]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let (cos, sin) = (1.0 / (t * t + 1.0).sqrt(), t / (t * t + 1.0).sqrt());
                for row in &mut m {
                    (row[a], row[b]) = (cos * row[a] - sin * row[b], sin * row[a] + cos * row[b]);
                }
                let [low, high] = m.get_disjoint_mut([a, b]).expect("a is below b");
                for (x, y) in low.iter_mut().zip(high) {
                    (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
                }
            }
        }
    }
    (0..n).map(|i| m[i][i]).collect()
}

/// Least squares through at least four points: coefficients of 1, s, s^2, s^3.
fn fit_cubic(points: &[(f64, f64)]) -> [f64; 4] {
    // Normal equations, by elimination: they are positive definite, so that no pivot is zero. s is scaled to 1 at most.
    let scale = points.iter().fold(0.0, |most: f64, (s, _)| most.max(*s));
    let mut m = [[0.0; 5]; 4];
    for (row, equation) in m.iter_mut().enumerate() {
        for (column, cell) in equation.iter_mut().enumerate() {
            let term = |(s, y): &(f64, f64)| {
                let s = s / scale;
                s.powi(row as i32) * if column == 4 { *y } else { s.powi(column as i32) }
            };
            *cell = points.iter().map(term).sum();
        }
    }
    for column in 0..4 {
        let own = m[column];
        for (_, equation) in m.iter_mut().enumerate().filter(|(row, _)| *row != column) {
            let factor = equation[column] / own[column];
            equation.iter_mut().zip(own).for_each(|(cell, own)| *cell -= factor * own);
        }
    }
    [0, 1, 2, 3].map(|i| m[i][4] / m[i][i] / scale.powi(i as i32))
}

fn cubic_at(c: [f64; 4], s: f64) -> f64 {
    c[0] + s * (c[1] + s * (c[2] + s * c[3]))
}

/// The maximum of a cubic inside `range`, else the better end.
fn optimum(c: [f64; 4], range: [f64; 2]) -> Optimum {
    let at = |s: f64, interior: bool| Optimum { s, score: cubic_at(c, s), interior };
    // Roots of c1 + 2 c2 s + 3 c3 s^2; at a maximum the slope falls.
    let (a, b) = (3.0 * c[3], 2.0 * c[2]);
    let root = (b * b - 4.0 * a * c[1]).sqrt();
    let roots =
        if a == 0.0 { vec![-c[1] / b] } else { vec![(-b - root) / (2.0 * a), (-b + root) / (2.0 * a)] };
    let inside = |s: &f64| *s > range[0] && *s < range[1] && b + 2.0 * a * s < 0.0;
    let ends = range.map(|s| at(s, false));
    roots.into_iter().filter(inside).map(|s| at(s, true)).next().unwrap_or(if ends[1].score > ends[0].score {
        ends[1]
    } else {
        ends[0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cubic_is_found_again_with_its_maximum() {
        let c = [0.2, 1.0, -0.5, -0.3];
        let points: Vec<_> = (1..=10).map(|i| f64::from(i) / 10.0).map(|s| (s, cubic_at(c, s))).collect();
        let fit = fit_cubic(&points);
        assert!(fit.iter().zip(c).all(|(a, b)| (a - b).abs() < 1e-9), "{fit:?}");
        let best = optimum(fit, [0.1, 1.0]);
        // Slope 1 - s - 0.9 s^2 is zero at 0.6359.
        assert!(best.interior && (best.s - 0.635_9).abs() < 1e-4, "{best:?}");
        let rising = optimum([0.0, 1.0, 0.0, 0.0], [0.1, 1.0]);
        assert_eq!((rising.s, rising.interior), (1.0, false));
    }

    #[test]
    fn the_vendi_score_counts_what_differs() {
        let [a, b, c]: [&[f32]; 3] = [&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.6, 0.0, 0.8]];
        assert!((vendi(&[a, a, a]) - 1.0).abs() < 1e-9 && (vendi(&[a, b]) - 2.0).abs() < 1e-9);
        // Cosines 0.6 between two of three: eigenvalues 1/3, (1 +- 0.6) / 3.
        let values = [1.0_f64, 1.6, 0.4].map(|v| v / 3.0);
        let expected = values.map(|v| -v * v.ln()).iter().sum::<f64>().exp();
        assert!((vendi(&[a, b, c]) - expected).abs() < 1e-7);
    }

    #[test]
    fn the_interval_of_the_optimum_holds_it_and_is_the_same_again() {
        let draws = Key::new(3, 0, "test");
        let rows: Vec<Vec<f32>> =
            (0..80).map(|i| (0..4).map(|d| draws.normal(4 * i + d)).collect()).collect();
        let rows: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        let pair = || vec![(rows[..40].to_vec(), rows[40..].to_vec())];
        let curve = Curve::new(&pair(), false, 5);
        let [low, high] = curve.interval;
        assert!((0.1..=1.0).contains(&low) && low <= high && high <= 1.0, "{curve:?}");
        assert!((0.0..=1.0).contains(&curve.r2) && curve == Curve::new(&pair(), false, 5));
    }

    #[test]
    fn variance_is_that_of_its_definition() {
        let rows: [&[f32]; 3] = [&[1.0, 0.0], &[2.0, 0.0], &[6.0, 3.0]];
        // Of 1, 2, 6: mean 3, variance 14 / 3; of 0, 0, 3: 2.
        assert!((variance(&rows, true) - (14.0 / 3.0 + 2.0)).abs() < 1e-12);
        assert!((variance(&rows, false) - (14.0 / 3.0 + 2.0) / 2.0).abs() < 1e-12);
    }
}
