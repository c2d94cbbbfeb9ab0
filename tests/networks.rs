//! DomainBed's networks for small images against torch's.

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store, Weights};
use kaleid::data::nchw_to_nhwc;
use kaleid::models::resnet::BatchNorm;
use kaleid::pipeline::domainbed::network::{Featurizer, Network, Pass};

/// Element i of tensor k, as in the golden.
fn values(n: usize, k: usize, scale: f64, shift: f64) -> Vec<f32> {
    let value = |i: usize| (((7919 * i + 104729 * k) % 2003) as f64 / 2003.0 - 0.5) * 2.0 * scale + shift;
    (0..n).map(|i| value(i) as f32).collect()
}

#[test]
fn features_equal_torchs() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("data/small_networks.json")).unwrap();
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    for (arch, size) in [("mnist_cnn", 28), ("wide_resnet", 32)] {
        let featurizer = Featurizer::named(arch, size, 64, [7, 2], BatchNorm::Live).unwrap();
        let network = Network { featurizer, classes: 2, nonlinear: false, f16_activations: false };
        let images = nchw_to_nhwc(&values(3 * 3 * size * size, 100, 2.0, 0.0), [3, 3, size, size]);
        let x: Vec<f32> = images.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 0.0]).collect();
        let mut store = Store::new(&gpu);
        for (pass, name) in [(Pass::Train { recompute: false }, "train"), (Pass::Predict, "predict")] {
            let g = Graph::new(gpu.caps());
            let w = Weights::new(&g, DType::F32);
            let input = g.input("x", &[3, size, size, 4], DType::F32);
            g.output("y", network.features(&g, &w, input, pass));
            if name == "train" {
                let mut params = w.params();
                params.sort_by(|a, b| a.0.cmp(&b.0));
                let (stats, params): (Vec<_>, Vec<_>) =
                    params.into_iter().partition(|p| p.0.contains("running"));
                for (k, (name, t)) in params.iter().enumerate() {
                    let (shape, fan_in) = match *t.shape() {
                        [o, h, w, i] => (vec![o, i, h, w], i * h * w),
                        ref shape => (shape.to_vec(), 16),
                    };
                    let shift = if name.ends_with("weight") && t.rank() == 1 { 1.0 } else { 0.0 };
                    let data = values(t.len(), k, 1.0 / (fan_in as f64).sqrt(), shift);
                    store.write(name, &shape, &data).unwrap();
                }
                for (name, t) in stats {
                    let start = if name.ends_with("var") { 1.0 } else { 0.0 };
                    store.write(&name, t.shape(), &vec![start; t.len()]).unwrap();
                }
            }
            let mut plan = Plan::new(&gpu, g, &store).unwrap();
            plan.write("x", &x).unwrap();
            plan.run().unwrap();
            let got: Vec<f32> = plan.read("y").unwrap().into_iter().step_by(5).collect();
            let want: Vec<f32> = serde_json::from_value(golden[arch][name].clone()).unwrap();
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst < 1e-4 * largest, "{arch}, {name}: {worst} of {largest}");
        }
    }
}
