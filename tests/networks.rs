//! DomainBed's networks for small images against torch's, and passes in groups.

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Param, Plan, Store, Weights};
use kaleid::data::nchw_to_nhwc;
use kaleid::domainbed::network::{Featurizer, Network, Pass, TrainNorm};

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
        let featurizer = Featurizer::named(arch, size, 64, [7, 2], TrainNorm::Live).unwrap();
        let network = Network { featurizer, classes: 2, nonlinear: false, f16_activations: false };
        let images = nchw_to_nhwc(&values(3 * 3 * size * size, 100, 2.0, 0.0), [3, 3, size, size]);
        let x: Vec<f32> = images.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 0.0]).collect();
        let mut store = Store::new(&gpu);
        for (pass, name) in
            [(Pass::Train { groups: 1, recompute: false }, "train"), (Pass::Predict, "predict")]
        {
            let g = Graph::new(gpu.caps());
            let w = Weights::new(&g, DType::F32);
            let input = g.input("x", &[3, size, size, 4], DType::F32);
            g.output("y", network.features(&w, input, pass));
            if name == "train" {
                let mut params = w.params();
                params.sort_by(|a, b| a.name.cmp(&b.name));
                let (stats, params): (Vec<_>, Vec<_>) =
                    params.into_iter().partition(|p| p.name.contains("running"));
                for (k, Param { name, tensor: t, .. }) in params.iter().enumerate() {
                    let (shape, fan_in) = match *t.shape() {
                        [o, h, w, i] => (vec![o, i, h, w], i * h * w),
                        ref shape => (shape.to_vec(), 16),
                    };
                    let shift = if name.ends_with("weight") && t.rank() == 1 { 1.0 } else { 0.0 };
                    let data = values(t.len(), k, 1.0 / (fan_in as f64).sqrt(), shift);
                    store.write(name, &shape, &data).unwrap();
                }
                for Param { name, tensor: t, .. } in stats {
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

#[test]
fn a_pass_of_groups_is_a_pass_of_each_group() {
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    let featurizer = Featurizer::named("resnet18", 16, 4, [3, 2], TrainNorm::Live).unwrap();
    let network = Network { featurizer, classes: 2, nonlinear: false, f16_activations: false };
    let (groups, shape) = (3, [6, 16, 16, 4]);
    // Groups that are far apart, so that it matters whose statistics are used, and in which order they move the running ones.
    let x: Vec<f32> =
        values(6 * 1024, 0, 1.0, 0.0).iter().enumerate().map(|(i, v)| v * (1 + i / 2048) as f32).collect();
    let results = [true, false].map(|at_once| {
        let g = Graph::new(gpu.caps());
        let w = Weights::new(&g, DType::F32);
        let input = g.input("x", &shape, DType::F32);
        let pass = |x, groups| network.features(&w, x, Pass::Train { groups, recompute: false });
        let y = match at_once {
            true => pass(input, groups),
            false => {
                let each: Vec<_> = (0..groups).map(|i| pass(g.slice(input, 0, 2 * i, 2), 1)).collect();
                g.concat(&each, 0)
            }
        };
        g.output("y", y);
        let mut store = Store::new(&gpu);
        for Param { name, tensor, .. } in w.params() {
            let shape = match *tensor.shape() {
                [o, h, w, i] => vec![o, i, h, w],
                ref shape => shape.to_vec(),
            };
            store.write(&name, &shape, &network.initial(&name, &shape, None, 0)).unwrap();
        }
        let mut plan = Plan::new(&gpu, g, &store).unwrap();
        plan.write("x", &x).unwrap();
        plan.run().unwrap();
        let running = store.names().into_iter().filter(|name| name.contains("running"));
        let running: Vec<f32> = running.flat_map(|name| store.read(&name).unwrap().1).collect();
        [plan.read("y").unwrap(), running]
    });
    let [at_once, one_by_one] = results;
    for (a, b) in at_once.iter().zip(&one_by_one) {
        let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(a.len() == b.len() && worst < 1e-5 * largest, "{worst} of {largest}");
    }
}

#[test]
fn four_channels_inside_a_network_are_no_image() {
    let featurizer = Featurizer::named("resnet18", 16, 4, [3, 2], TrainNorm::Live).unwrap();
    let network = Network { featurizer, classes: 2, nonlinear: false, f16_activations: false };
    let tensors = network.featurizer_tensors(16);
    // The stem sees three colours; a fourth channel of zeros has no weights. Inside, four channels are four channels.
    assert_eq!(tensors["conv1.weight"], 4 * 3 * 3 * 3);
    for name in ["layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv1.weight"] {
        assert_eq!(tensors[name], 4 * 4 * 3 * 3, "{name}");
    }
}
