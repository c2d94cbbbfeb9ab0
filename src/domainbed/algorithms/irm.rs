//! Invariant risk minimisation (Arjovsky et al., 2019): a classifier that is optimal in every environment at once. With a scale s = 1
//! on the logits, the penalty of an environment is |d CE(s z, y) / ds|^2; its unbiased estimate is the product of the derivatives
//! g over the even and over the odd rows, which may be negative (upstream issues 17 and 41).
//!
//! ```text
//! g = mean_k (sum_c p_kc z_kc - z_k,y_k),  p = softmax(z)       loss = mean_e CE_e + w mean_e g_even g_odd
//! ```
//!
//! w is 1 until `irm_penalty_anneal_iters` and `irm_lambda` from then on, when Adam starts anew. The derivative is recorded in
//! closed form, which the graph differentiates once more; a test compares it with differentiating twice.

use crate::core::{Graph, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::anneal::Anneal;
use crate::domainbed::step::Step;

/// IRM.
pub struct Irm {
    weight: Anneal,
}

impl Irm {
    pub fn new(setup: &Setup) -> Self {
        Irm { weight: Anneal::new(setup, "irm_penalty_anneal_iters", 1.0, "irm_lambda") }
    }
}

impl Algorithm for Irm {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let logits = step.classify(step.features());
        let nll = g.mean(step.risks(logits), &[0]);
        let penalty = penalty(g, logits, step.one_hot(step.y), step.envs);
        let loss = g.add(nll, self.weight.times(step, penalty));
        step.adam(loss);
        vec![("loss", loss), ("nll", nll), ("penalty", penalty)]
    }

    fn adam_resets(&self) -> Vec<u32> {
        vec![self.weight.at]
    }
}

/// The mean penalty (1) of `envs` environments, from logits (E B, K) and labels as ones and zeros.
pub fn penalty(g: &Graph, logits: Tensor, one_hot: Tensor, envs: usize) -> Tensor {
    let b = logits.dim(0) / envs;
    let slope = g.sum(g.mul(g.sub(g.softmax(logits), one_hot), logits), &[1]);
    let slope = g.reshape(slope, &[envs, b]);
    let half = |parity: usize| {
        let rows = (b + 1 - parity) / 2;
        let mask: Vec<f32> = (0..b).map(|i| if i % 2 == parity { 1.0 / rows as f32 } else { 0.0 }).collect();
        g.sum(g.mul(slope, g.constant(&[1, b], &mask)), &[1])
    };
    g.reshape(g.mean(g.mul(half(0), half(1)), &[0]), &[1])
}

#[cfg(test)]
mod tests {
    use crate::core::{DType, Gpu, GpuOptions, Graph, Plan, Store};

    #[test]
    fn the_closed_form_equals_differentiating_twice() {
        let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
        let z = [1.0, -0.5, 0.25, 0.3, 0.8, -1.2, -0.7, 0.1, 0.9, 2.0, 0.5, -0.5, 0.0, 0.4, -0.3];
        let labels = [0u32, 1, 2, 1, 0];
        let g = Graph::new(gpu.caps());
        let logits = g.input("z", &[5, 3], DType::F32);
        let eye: Vec<f32> = (0..9).map(|i| if i / 3 == i % 3 { 1.0 } else { 0.0 }).collect();
        let one_hot = |ids| g.gather_rows(g.constant(&[3, 3], &eye), ids);
        let closed = super::penalty(&g, logits, one_hot(g.input("y", &[5], DType::U32)), 1);
        // Upstream's way, with a scale on the logits that is one.
        let half = |name: &str, rows: &[usize]| {
            let ids = g.input(name, &[rows.len()], DType::U32);
            let scale = g.input("scale", &[1], DType::F32);
            let scaled = g.mul(g.gather_rows(logits, ids), scale);
            let loss = g.cross_entropy(scaled, g.input(&format!("{name} labels"), &[rows.len()], DType::U32));
            g.backward(loss, &[scale])[0]
        };
        let twice = g.mul(half("even", &[0, 2, 4]), half("odd", &[1, 3]));
        for (name, penalty) in [("closed", closed), ("twice", twice)] {
            g.output(name, penalty);
            g.output(&format!("d {name}"), g.backward(penalty, &[logits])[0]);
        }
        let mut plan = Plan::new(&gpu, g, &Store::new(&gpu)).unwrap();
        plan.write("z", &z).unwrap();
        plan.write("scale", &[1.0]).unwrap();
        plan.write_u32("y", &labels).unwrap();
        for (name, rows) in [("even", vec![0, 2, 4]), ("odd", vec![1, 3])] {
            plan.write_u32(name, &rows).unwrap();
            let of: Vec<u32> = rows.iter().map(|&r| labels[r as usize]).collect();
            plan.write_u32(&format!("{name} labels"), &of).unwrap();
        }
        plan.run().unwrap();
        let slopes = [
            [-0.0215117586, -0.0015545845, 0.0230663431],
            [-0.0338822404, 0.0277711488, 0.0061110916],
            [-0.0028791275, 0.0210528, -0.0181736725],
            [-0.1270519872, 0.1190376031, 0.0080143842],
            [-0.0916409595, 0.0747543925, 0.0168865671],
        ];
        for name in ["closed", "twice"] {
            assert!((plan.read(name).unwrap()[0] + 0.08878318650380068).abs() < 1e-6, "{name}");
            let got = plan.read(&format!("d {name}")).unwrap();
            assert!(
                got.iter().zip(slopes.as_flattened()).all(|(a, b)| (a - b).abs() < 1e-6),
                "{name}: {got:?}"
            );
        }
    }
}
