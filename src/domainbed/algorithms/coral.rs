//! Features that are distributed alike in all environments, by their moments or by kernels:
//!
//! ```text
//! loss = mean_e CE_e + mmd_gamma mean over pairs i < j of d(F_i, F_j)
//! ```
//!
//! - CORAL (Sun and Saenko, "Deep CORAL", 2016): d = mean_D (mu_i - mu_j)^2 + mean_DxD (C_i - C_j)^2, which is mean and covariance,
//!   over D^2 where the paper has 4 D^2. The covariances themselves are compared, not Gram matrices of samples, so that nearly equal
//!   ones lose no digits.
//! - MMD (Li et al., "Domain generalization with adversarial feature learning", 2018): d = mean K_ii + mean K_jj - 2 mean K_ij, with
//!   K(a, b) = sum over gamma in 10^{-3..3} of exp(-gamma |a - b|^2)
//! - CausIRL (Chevalley et al., "Invariant causal mechanisms through distribution matching", 2022): the two groups come from all
//!   environments, each cut at a random place, so that what is left to align is noise.
//!
//! The loss that is logged is the cross entropy alone.

use crate::core::{DType, Graph, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::step::Step;
use crate::ops::Matmul;

/// How far two sets of features are apart.
#[derive(Clone, Copy)]
pub enum Distance {
    /// Of means and covariances.
    Coral,
    /// Of kernel means.
    Mmd,
}

/// A sample of features: rows x (n, D), row weights (n, 1) that sum to 1, and Bessel's correction n / (n - 1).
#[derive(Clone, Copy)]
pub struct Sample {
    x: Tensor,
    weights: Tensor,
    bessel: Tensor,
}

impl Sample {
    /// All rows alike.
    pub fn whole(g: &Graph, x: Tensor) -> Self {
        let n = x.dim(0);
        let weights = g.constant(&[n, 1], &vec![1.0 / n as f32; n]);
        Sample { x, weights, bessel: g.constant(&[1], &[n as f32 / (n - 1) as f32]) }
    }

    /// Mean (1, D) and covariance (D, D).
    fn moments(&self, g: &Graph) -> (Tensor, Tensor) {
        let mean = g.sum(g.mul(self.x, self.weights), &[0]);
        let away = g.sub(self.x, mean);
        let transposed = Matmul { transpose_a: true, ..Matmul::default() };
        let covariance = g.matmul_with(g.mul(away, self.weights), away, transposed);
        (mean, g.mul(covariance, self.bessel))
    }
}

impl Distance {
    /// d(i, j), (1), of every pair i < j of `samples`.
    pub fn of_pairs(self, g: &Graph, samples: &[Sample]) -> Vec<Tensor> {
        let pairs = (0..samples.len()).flat_map(|i| (i + 1..samples.len()).map(move |j| (i, j)));
        match self {
            Distance::Coral => {
                let moments: Vec<_> = samples.iter().map(|s| s.moments(g)).collect();
                let between = |(i, j): (usize, usize)| {
                    let ((mean_i, cov_i), (mean_j, cov_j)) = (moments[i], moments[j]);
                    g.add(g.mse_loss(mean_i, mean_j), g.mse_loss(cov_i, cov_j))
                };
                pairs.map(between).collect()
            }
            Distance::Mmd => {
                let mean = |a: Sample, b: Sample| {
                    let columns = g.sum(g.mul(kernel(g, a.x, b.x), a.weights), &[0]);
                    g.sum(g.mul(g.reshape(columns, &[b.weights.len()]), g.reshape(b.weights, &[0])), &[0])
                };
                let own: Vec<Tensor> = samples.iter().map(|&s| mean(s, s)).collect();
                let both = |i: usize, j: usize| g.scale(mean(samples[i], samples[j]), 2.0);
                pairs.map(|(i, j)| g.sub(g.add(own[i], own[j]), both(i, j))).collect()
            }
        }
    }
}

/// K (n, m) of rows (n, D) and (m, D).
fn kernel(g: &Graph, a: Tensor, b: Tensor) -> Tensor {
    // Differences: norms less products would lose digits that the largest gamma brings back as noise.
    let (n, m, d) = (a.dim(0), b.dim(0), a.last());
    let away = g.sub(g.reshape(a, &[n, 1, d]), g.reshape(b, &[1, m, d]));
    let far = g.reshape(g.sum(g.mul(away, away), &[2]), &[n, m]);
    // At least 1e-30, with no gradient below.
    let far = g.add_scalar(g.relu(g.add_scalar(far, -1e-30)), 1e-30);
    let kernels = [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0].map(|gamma| g.exp(g.scale(far, -gamma)));
    kernels.into_iter().reduce(|a, b| g.add(a, b)).expect("seven of them")
}

/// CORAL and MMD.
pub struct Coral {
    gamma: f32,
    distance: Distance,
}

impl Coral {
    pub fn new(setup: &Setup, distance: Distance) -> Self {
        Coral { gamma: setup.hparams.f32("mmd_gamma"), distance }
    }
}

/// Adam on the mean risk and a penalty; what is logged.
fn descend(
    step: &Step,
    features: &[Tensor],
    penalty: Option<Tensor>,
    gamma: f32,
) -> Vec<(&'static str, Tensor)> {
    let g = step.g;
    let logits: Vec<Tensor> = features.iter().map(|&f| step.classify(f)).collect();
    let risk = g.mean(step.risks(g.concat(&logits, 0)), &[0]);
    step.adam(penalty.map_or(risk, |p| g.add(risk, g.scale(p, gamma))));
    vec![("loss", risk), ("penalty", penalty.unwrap_or_else(|| step.number(0.0)))]
}

impl Algorithm for Coral {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let features = step.features_by_env();
        let samples: Vec<Sample> = features.iter().map(|&f| Sample::whole(g, f)).collect();
        let far = self.distance.of_pairs(g, &samples);
        // One environment alone has nothing to be like.
        let penalty = (!far.is_empty()).then(|| step.mean(&far));
        descend(step, &features, penalty, self.gamma)
    }
}

/// CausIRL_CORAL and CausIRL_MMD.
pub struct CausIrl {
    gamma: f32,
    distance: Distance,
}

impl CausIrl {
    pub fn new(setup: &Setup, distance: Distance) -> Self {
        CausIrl { gamma: setup.hparams.f32("mmd_gamma"), distance }
    }
}

impl Algorithm for CausIrl {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let (g, rows) = (step.g, step.x.dim(0));
        let features = step.features_by_env();
        let x = g.concat(&features, 0);
        let (weights, one) = ((DType::F32, &[rows, 1][..]), (DType::F32, &[1][..]));
        let [w0, bessel0, w1, bessel1, both] = step.inputs([weights, one, weights, one, one], |batch| {
            let mut first = vec![];
            for _ in 0..batch.envs {
                let cut = batch.below(batch.size)?;
                first.extend((0..batch.size).map(|i| if i < cut { 1.0 } else { 0.0 }));
            }
            let second: Vec<f32> = first.iter().map(|v| 1.0 - v).collect();
            let [n0, n1] = [&first, &second].map(|members| members.iter().sum::<f32>());
            let weights =
                |members: Vec<f32>, n: f32| members.iter().map(|v| v / n.max(1.0)).collect::<Vec<_>>();
            let bessel = |n: f32| if n > 1.0 { n / (n - 1.0) } else { 0.0 };
            // A group of one sample or none has no distribution.
            let both = if n0 > 1.0 && n1 > 1.0 { 1.0 } else { 0.0 };
            Ok([
                weights(first, n0).into(),
                bessel(n0).into(),
                weights(second, n1).into(),
                bessel(n1).into(),
                both.into(),
            ])
        });
        let groups = [Sample { x, weights: w0, bessel: bessel0 }, Sample { x, weights: w1, bessel: bessel1 }];
        let penalty = g.mul(self.distance.of_pairs(g, &groups)[0], both);
        descend(step, &features, Some(penalty), self.gamma)
    }
}

#[cfg(test)]
mod tests {
    use super::{Distance, Sample};
    use crate::core::{Gpu, GpuOptions, Graph, Plan, Store};

    #[test]
    fn distances_equal_their_worked_examples() {
        let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
        let g = Graph::new(gpu.caps());
        let x = g.constant(&[4, 3], &[0.5, 1.0, -0.2, 1.5, -0.3, 0.4, 0.1, 0.6, 0.9, -0.4, 0.2, 1.1]);
        let y = g.constant(&[3, 3], &[0.2, -0.1, 0.3, 1.1, 0.9, -0.6, -0.8, 0.5, 0.7]);
        let [a, b] = [x, y].map(|t| Sample::whole(&g, t));
        let [coral, mmd] = [Distance::Coral, Distance::Mmd].map(|d| d.of_pairs(&g, &[a, b])[0]);
        g.output("CORAL", coral);
        g.output("MMD", mmd);
        g.output("slope", g.backward(coral, &[x])[0]);
        let mut plan = Plan::new(&gpu, g, &Store::new(&gpu)).unwrap();
        plan.run().unwrap();
        for (name, want) in [("CORAL", 0.15050648148148152), ("MMD", 2.0681977911718077)] {
            assert!((f64::from(plan.read(name).unwrap()[0]) - want).abs() < 1e-6, "{name}");
        }
        let slope = [
            [-0.0339506173, -0.0163580247, 0.0915308642],
            [0.0326790123, -0.0772098765, 0.1209876543],
            [0.0608888889, 0.0139382716, 0.0492592593],
            [0.1126049383, 0.0407407407, 0.016],
        ];
        let got = plan.read("slope").unwrap();
        assert!(got.iter().zip(slope.as_flattened()).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    }
}
