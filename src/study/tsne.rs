//! Embeddings on a plane: t-SNE (van der Maaten & Hinton 2008), exact and from seeded draws, so that a run that resumes draws the same
//! picture. (Crates that do it start from draws of their own.)

use crate::data::rng::Key;
use rayon::prelude::*;

/// The number of neighbours that count, about.
pub const PERPLEXITY: f64 = 30.0;
/// Steps, and those of them in which neighbours pull harder.
pub const STEPS: usize = 500;
const EXAGGERATED: usize = 125;
const EXAGGERATION: f64 = 12.0;

/// A place on the plane for each of these rows, in which what is near in them is near. Every pair is looked at in every step: meant for
/// some thousand rows.
pub fn plane(rows: &[&[f32]], seed: u64) -> Vec<[f64; 2]> {
    let n = rows.len();
    if n < 4 {
        return (0..n).map(|i| [i as f64, 0.0]).collect();
    }
    let (near, start) = (similarities(rows), Key::new(seed, 0, "t-sne"));
    let place = |i: u32| [2 * i, 2 * i + 1].map(|k| 1e-4 * f64::from(start.normal(k)));
    let mut places: Vec<[f64; 2]> = (0..n as u32).map(place).collect();
    let mut speeds = vec![[0.0; 2]; n];
    let rate = (n as f64 / EXAGGERATION).max(50.0);
    for step in 0..STEPS {
        let (exaggeration, momentum) = if step < EXAGGERATED { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let pushes = pushes(&near, &places, exaggeration);
        for ((place, speed), push) in places.iter_mut().zip(&mut speeds).zip(pushes) {
            for k in 0..2 {
                speed[k] = momentum * speed[k] + rate * push[k];
                place[k] += speed[k];
            }
        }
    }
    places
}

/// Probabilities (n, n) that rows are neighbours: Gaussian, each row's as wide as [`PERPLEXITY`] wants, the mean of both directions.
fn similarities(rows: &[&[f32]]) -> Vec<Vec<f64>> {
    let n = rows.len();
    let perplexity = PERPLEXITY.min((n - 1) as f64 / 3.0);
    let one = |i: usize| {
        let distance =
            |j: usize| rows[i].iter().zip(rows[j]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let distances: Vec<f64> = (0..n).map(distance).collect();
        let nearest = (0..n).filter(|&j| j != i).map(|j| distances[j]).fold(f64::INFINITY, f64::min);
        let (mut low, mut high, mut beta) = (0.0, f64::INFINITY, 1.0);
        let mut own = vec![];
        for _ in 0..60 {
            own =
                (0..n).map(|j| if j == i { 0.0 } else { (-beta * (distances[j] - nearest)).exp() }).collect();
            let sum: f64 = own.iter().sum();
            own.iter_mut().for_each(|p: &mut f64| *p /= sum);
            let entropy: f64 = own.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
            if entropy > perplexity.ln() {
                low = beta
            } else {
                high = beta
            }
            beta = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * beta };
        }
        own
    };
    let one_way: Vec<Vec<f64>> = (0..n).into_par_iter().map(one).collect();
    let both = |i: usize| (0..n).map(|j| (one_way[i][j] + one_way[j][i]) / (2 * n) as f64).collect();
    (0..n).map(both).collect()
}

/// The step downhill for every place: 4 sum_j (p q' - q q' ) (y_i - y_j), q' = 1 / (1 + |y_i - y_j|^2), with the sign turned.
fn pushes(near: &[Vec<f64>], places: &[[f64; 2]], exaggeration: f64) -> Vec<[f64; 2]> {
    let between = |a: &[f64; 2], b: &[f64; 2]| 1.0 / (1.0 + (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2));
    let of_row = |a: &[f64; 2]| places.iter().map(|b| between(a, b)).sum::<f64>() - 1.0;
    // Each row's sum first, so that the order of additions does not depend on threads.
    let sums: Vec<f64> = places.par_iter().map(of_row).collect();
    let all: f64 = sums.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let push = |(a, near): (&[f64; 2], &Vec<f64>)| {
        let mut push = [0.0; 2];
        for (b, p) in places.iter().zip(near) {
            let q = between(a, b);
            let pull = 4.0 * (exaggeration * p - q / all) * q;
            (0..2).for_each(|k| push[k] -= pull * (a[k] - b[k]));
        }
        push
    };
    places.par_iter().zip(near).map(push).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_stays_near() {
        // Three clouds in ten dimensions.
        let draws = Key::new(1, 0, "test");
        let value = |i: usize, d: usize| {
            0.1 * draws.normal((10 * i + d) as u32) + if d == i / 30 { 3.0 } else { 0.0 }
        };
        let row = |i: usize| (0..10).map(|d| value(i, d)).collect();
        let rows: Vec<Vec<f32>> = (0..90).map(row).collect();
        let rows: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        let places = plane(&rows, 0);
        let distance = |i: usize, j: usize| (places[i][0] - places[j][0]).hypot(places[i][1] - places[j][1]);
        for i in 0..90 {
            let nearest =
                (0..90).filter(|&j| j != i).min_by(|&a, &b| distance(i, a).total_cmp(&distance(i, b)));
            assert_eq!(nearest.unwrap() / 30, i / 30, "{i} is beside another cloud");
        }
        assert_eq!(places, plane(&rows, 0));
    }

    #[test]
    fn few_or_equal_rows_have_places_too() {
        assert_eq!(plane(&[&[1.0, 2.0]], 0).len(), 1);
        let same: Vec<&[f32]> = vec![&[1.0, 2.0]; 10];
        assert!(plane(&same, 0).iter().flatten().all(|x| x.is_finite()));
    }
}
