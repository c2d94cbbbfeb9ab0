//! DomainBed's algorithms on toy data: each learns, each does what it exists for, and each resumes after a cut to the same bits.
//! (Numbers against upstream's: `kaleid verify`, tests/golden/domainbed.*.)

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store, Weights};
use kaleid::data::rng::Key;
use kaleid::domainbed::hparams::{Hparams, Kind, Preset};
use kaleid::domainbed::network::{Featurizer, Mlp, Network, Pass};
use kaleid::domainbed::predictor::Predictor;
use kaleid::domainbed::samples::{Rows, Samples};
use kaleid::domainbed::trainer::Trainer;
use kaleid::domainbed::{Algorithm, Saving, Setup, Spec, algorithm, names};
use serde_json::{Value, json};
use std::sync::OnceLock;

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| Gpu::open(&GpuOptions::from_env()).unwrap())
}

/// The same adapter, where a model may take so many bytes.
fn limited(bytes: usize) -> Gpu {
    Gpu::open(&GpuOptions { memory: Some(bytes.div_ceil(1 << 20) as u64), ..GpuOptions::from_env() }).unwrap()
}

/// `rows` samples of one environment and their labels, by a key that is new in every step.
type Env = fn(Key, usize) -> (Vec<f32>, Vec<u32>);

/// A run on toy environments.
struct Run {
    name: &'static str,
    hparams: Hparams,
    network: Network,
    inputs: usize,
    envs: Vec<Env>,
    batch: usize,
    corrected: bool,
}

impl Run {
    fn new(
        name: &'static str,
        inputs: usize,
        classes: usize,
        envs: &[Env],
        hparams: &[(&str, Value)],
    ) -> Run {
        let kind = Kind { algorithm: name, dataset: "toy", preset: Preset::Db2024 };
        let mut drawn = Hparams::new(kind, 0, 0);
        for (name, value) in [("lr", json!(0.005))].iter().chain(hparams) {
            if drawn.0.contains_key(*name) {
                drawn.set(name, value.clone()).unwrap();
            }
        }
        let mlp = Mlp { width: 16, depth: 3, outputs: 16, dropout: 0.0 };
        let network =
            Network { featurizer: Featurizer::Mlp(mlp), classes, nonlinear: false, f16_activations: false };
        Run { name, hparams: drawn, network, inputs, envs: envs.to_vec(), batch: 16, corrected: false }
    }

    fn make(&self) -> Box<dyn Algorithm> {
        let (hparams, envs) = (&self.hparams, self.envs.len());
        algorithm(self.name, &Setup { hparams, preset: Preset::Db2024, corrected: self.corrected, envs })
            .unwrap()
    }

    fn spec<'a>(&'a self, samples: &'a Samples) -> Spec<'a> {
        Spec {
            network: &self.network,
            hparams: &self.hparams,
            samples,
            envs: self.envs.len(),
            batch: self.batch,
            weighted: false,
            seed: 7,
            average_from: self.make().average_from(),
            recompute: false,
        }
    }

    fn trainer(&self, store: &mut Store) -> Trainer {
        let init = |name: &str, shape: &[usize], fan_in| Ok(self.network.initial(name, shape, fan_in, 3));
        Trainer::new(store, self.make(), &self.spec(&Samples::Numbers(vec![self.inputs])), init).unwrap()
    }

    fn minibatch(&self, step: u32) -> (Vec<f32>, Vec<u32>) {
        let (mut x, mut y) = (vec![], vec![]);
        for (e, env) in self.envs.iter().enumerate() {
            let (xs, ys) = env(Key::new(1, step, &format!("toy {e}")), self.batch);
            x.extend(xs);
            y.extend(ys);
        }
        (x, y)
    }

    /// Trains from `start` to before `end`; the logged numbers of the last quarter.
    fn train(
        &self,
        trainer: &mut Trainer,
        start: u32,
        end: u32,
    ) -> std::collections::BTreeMap<&'static str, f32> {
        let since = end - (end - start).div_ceil(4);
        for step in start..end {
            let (x, y) = self.minibatch(step);
            trainer.step(step, Rows::Numbers(&x), &y, if step < since { step } else { since }).unwrap();
        }
        trainer.logged(since, end).unwrap()
    }

    fn predictor(&self, store: &Store, rows: usize) -> Predictor {
        let samples = Samples::Numbers(vec![self.inputs]);
        Predictor::new(store, &*self.make(), &self.spec(&samples), rows).unwrap()
    }

    /// Logits of the samples of one environment, and their labels.
    fn logits(&self, store: &Store, env: Env, rows: usize) -> (Vec<f32>, Vec<u32>) {
        let (x, y) = env(Key::new(2, 0, "test"), rows);
        let mut predictor = self.predictor(store, rows);
        predictor.run(Rows::Numbers(&x), Key::new(0, 0, "predict")).unwrap();
        (predictor.logits().unwrap(), y)
    }

    /// Share of one environment's samples that are classified rightly.
    fn accuracy(&self, store: &Store, env: Env) -> f64 {
        let (logits, y) = self.logits(store, env, 512);
        let k = self.network.classes;
        let best = |row: &[f32]| (0..k).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let right = logits.chunks(k).zip(&y).filter(|(row, y)| best(row) == **y).count();
        right as f64 / y.len() as f64
    }

    /// Mean cross entropy over one environment.
    fn risk(&self, store: &Store, env: Env) -> f64 {
        let (logits, y) = self.logits(store, env, 512);
        let loss = |(row, &y): (&[f32], &u32)| {
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            sum.ln() - f64::from(row[y as usize])
        };
        logits.chunks(self.network.classes).zip(&y).map(loss).sum::<f64>() / y.len() as f64
    }
}

/// Four classes on the corners of a square, in an environment that shifts and scales them, beside six numbers of noise.
fn corners(key: Key, rows: usize, shift: f32, scale: f32) -> (Vec<f32>, Vec<u32>) {
    let (mut x, mut y) = (vec![], vec![]);
    for row in 0..rows as u32 {
        let class = key.below(16 * row, 4);
        let corner = [if class & 1 == 0 { -1.0 } else { 1.0 }, if class & 2 == 0 { -1.0 } else { 1.0 }];
        x.extend(corner.iter().zip(1..).map(|(c, i)| scale * c + shift + 0.3 * key.normal(16 * row + i)));
        x.extend((4..10).map(|i| 0.3 * shift + scale * key.normal(16 * row + i)));
        y.push(class);
    }
    (x, y)
}

const CORNERS: [Env; 3] =
    [|k, n| corners(k, n, 0.0, 1.0), |k, n| corners(k, n, 0.3, 0.7), |k, n| corners(k, n, -0.3, 1.5)];

/// Penalties begin early, so that a short run sees them, and gently.
fn eager() -> Vec<(&'static str, Value)> {
    vec![
        ("irm_penalty_anneal_iters", json!(20)),
        ("irm_lambda", json!(3.0)),
        ("vrex_penalty_anneal_iters", json!(20)),
        ("ib_penalty_anneal_iters", json!(20)),
        ("ib_lambda", json!(0.1)),
        ("penalty_anneal_iters", json!(20)),
        ("lambda", json!(0.3)),
        ("eqrm_burnin_iters", json!(60.0)),
        ("eqrm_lr", json!(0.005)),
        ("linear_steps", json!(20)),
        ("linear_lr", json!(0.005)),
        ("lr_g", json!(0.005)),
        ("lr_d", json!(0.005)),
        ("tau", json!(0.5)),
        ("mlp_width", json!(16)),
        ("mmd_gamma", json!(0.1)),
    ]
}

#[test]
fn every_algorithm_lowers_its_loss_and_learns_the_classes() {
    let mut hparams = eager();
    hparams.extend(["lr", "lr_g", "lr_d", "linear_lr", "eqrm_lr"].map(|rate| (rate, json!(0.01))));
    for name in names() {
        let run = Run::new(name, 8, 4, &CORNERS, &hparams);
        let mut store = Store::new(gpu());
        let mut trainer = run.trainer(&mut store);
        let first = run.train(&mut trainer, 0, 8);
        let last = run.train(&mut trainer, 8, 128);
        // The two sides of an adversarial game have no loss that must fall.
        if let Some(loss) = ["loss", "loss_c"].into_iter().find(|l| first.contains_key(l)) {
            assert!(last[loss] < 0.75 * first[loss], "{name}: {loss} {} then {}", first[loss], last[loss]);
        }
        let accuracy = run.accuracy(&store, CORNERS[0]);
        assert!(accuracy > 0.85, "{name}: accuracy {accuracy}");
    }
}

#[test]
fn every_algorithm_resumes_to_the_same_bits() {
    let mut hparams = eager();
    hparams.extend([("resnet_dropout", json!(0.2)), ("eqrm_burnin_iters", json!(4.0))]);
    hparams.extend([("linear_steps", json!(2)), ("irm_penalty_anneal_iters", json!(5))]);
    for name in names() {
        let run = Run::new(name, 8, 4, &CORNERS, &hparams);
        let mut whole = Store::new(gpu());
        let mut trainer = run.trainer(&mut whole);
        run.train(&mut trainer, 0, 3);
        let mut again = Store::new(gpu());
        for tensor in whole.names() {
            let (shape, data) = whole.read(&tensor).unwrap();
            again.write(&tensor, &shape, &data).unwrap();
        }
        run.train(&mut trainer, 3, 7);
        let mut trainer = run.trainer(&mut again);
        run.train(&mut trainer, 3, 7);
        assert_eq!(whole.names(), again.names(), "{name}");
        for tensor in whole.names().iter().filter(|t| !t.starts_with("log.")) {
            let bits =
                |store: &Store| store.read(tensor).unwrap().1.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert!(bits(&whole) == bits(&again), "{name}: {tensor}");
        }

        // A model file holds the network, or its average, and nothing of what an algorithm keeps for training.
        let predictor = run.predictor(&whole, 16);
        let layers = ["fc", "hiddens.0", "input", "output"];
        let wanted = layers.iter().flat_map(|layer| [format!("{layer}.bias"), format!("{layer}.weight")]);
        let mut held = predictor.tensors();
        held.sort();
        assert!(held.iter().map(|(name, _)| *name).eq(wanted), "{name}: {held:?}");
        let averaged = name == "ERMPlusPlus";
        assert!(
            held.iter().all(|(_, stored)| stored.starts_with("average.") == averaged),
            "{name}: {held:?}"
        );
    }
}

/// A shape that gives the label three times of four, and a colour that gives it with a share of the environment's.
fn coloured(key: Key, rows: usize, share: f32) -> (Vec<f32>, Vec<u32>) {
    let (mut x, mut y) = (vec![], vec![]);
    for row in 0..rows as u32 {
        let label = key.below(8 * row, 2);
        let sign = |holds: bool| if (label == 1) == holds { 1.0 } else { -1.0 };
        let shape = sign(key.uniform(8 * row + 1) < 0.75);
        let colour = sign(key.uniform(8 * row + 2) < share);
        x.extend([shape, colour]);
        y.push(label);
    }
    (x, y)
}

#[test]
fn irm_drops_the_spurious_colour_that_erm_keeps() {
    let envs: [Env; 2] = [|k, n| coloured(k, n, 0.9), |k, n| coloured(k, n, 0.8)];
    let test: Env = |k, n| coloured(k, n, 0.1);
    let hparams = [
        ("irm_penalty_anneal_iters", json!(100)),
        ("irm_lambda", json!(3000.0)),
        ("weight_decay", json!(0.001)),
    ];
    let accuracy = |name| {
        let mut run = Run::new(name, 2, 2, &envs, &hparams);
        run.batch = 512;
        let mut store = Store::new(gpu());
        run.train(&mut run.trainer(&mut store), 0, 400);
        run.accuracy(&store, test)
    };
    let (erm, irm) = (accuracy("ERM"), accuracy("IRM"));
    assert!(erm < 0.45 && irm > 0.6, "ERM {erm}, IRM {irm}");
}

#[test]
fn coral_brings_the_moments_of_environments_together() {
    let penalty = |gamma: f64| {
        let run = Run::new("CORAL", 8, 4, &CORNERS, &[("mmd_gamma", json!(gamma))]);
        let logged = run.train(&mut run.trainer(&mut Store::new(gpu())), 0, 200);
        (logged["penalty"], logged["loss"])
    };
    let ((without, _), (with, loss)) = (penalty(0.0), penalty(10.0));
    assert!(with < 0.3 * without && loss < 0.7, "{without} without, {with} with CORAL at loss {loss}");
}

/// The label is the side of the first number, or the other one.
fn side(key: Key, rows: usize, other: bool) -> (Vec<f32>, Vec<u32>) {
    let x: Vec<f32> = (0..2 * rows as u32).map(|i| if key.bits(i) & 1 == 0 { -1.0 } else { 1.0 }).collect();
    let y = x.chunks(2).map(|x| u32::from((x[0] > 0.0) != other)).collect();
    (x, y)
}

#[test]
fn groupdro_raises_the_worst_environment() {
    // Two environments outvote a third.
    let envs: [Env; 3] = [|k, n| side(k, n, false), |k, n| side(k, n, false), |k, n| side(k, n, true)];
    let worst = |name| {
        let run = Run::new(name, 2, 2, &envs, &[("groupdro_eta", json!(0.1))]);
        let mut store = Store::new(gpu());
        run.train(&mut run.trainer(&mut store), 0, 300);
        envs.iter().map(|&env| run.risk(&store, env)).fold(0.0, f64::max)
    };
    let (erm, dro) = (worst("ERM"), worst("GroupDRO"));
    assert!(erm > 1.0 && dro < 0.85, "worst risk {erm} of ERM, {dro} of GroupDRO");
}

/// The label is the sign of a pattern under noise, and in `share` of the samples that of a shift of all numbers as well: a style.
fn styled(key: Key, rows: usize, share: f32) -> (Vec<f32>, Vec<u32>) {
    let (mut x, mut y) = (vec![], vec![]);
    for row in 0..rows as u32 {
        let label = key.below(16 * row, 2);
        let sign = 2.0 * label as f32 - 1.0;
        let shift = if key.uniform(16 * row + 1) < share { sign } else { -sign };
        let number =
            |i: u32| shift + key.normal(16 * row + i) + if i % 2 == 0 { 0.5 * sign } else { -0.5 * sign };
        x.extend((4..12).map(number));
        y.push(label);
    }
    (x, y)
}

#[test]
fn sagnet_is_less_moved_by_the_style_of_features() {
    // How much the logits change when mean and variance of each feature vector are another sample's, relative to their size.
    let moved = |name| {
        let envs: [Env; 2] = [|k, n| styled(k, n, 0.95), |k, n| styled(k, n, 0.85)];
        let run = Run::new(name, 8, 2, &envs, &[("sag_w_adv", json!(1.0)), ("lr", json!(0.01))]);
        let mut store = Store::new(gpu());
        run.train(&mut run.trainer(&mut store), 0, 250);
        let (x, _) = styled(Key::new(2, 0, "test"), 256, 0.5);
        let g = Graph::new(gpu().caps());
        let w = Weights::new(&g, DType::F32);
        let f = run.network.features(&w, g.input("x", &[256, 8], DType::F32), Pass::Predict);
        g.output("features", f);
        let mut plan = Plan::new(gpu(), g, &store).unwrap();
        plan.write("x", &x).unwrap();
        plan.run().unwrap();
        let features = plan.read("features").unwrap();
        let stats = |row: &[f32]| {
            let n = row.len() as f32;
            let mean = row.iter().sum::<f32>() / n;
            (mean, (row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (n - 1.0)).sqrt())
        };
        let rows: Vec<&[f32]> = features.chunks(16).collect();
        let restyled: Vec<f32> = (0..rows.len())
            .flat_map(|i| {
                let ((mean, std), (mean2, std2)) = (stats(rows[i]), stats(rows[(i + 97) % rows.len()]));
                rows[i].iter().map(move |v| (v - mean) / std * std2 + mean2).collect::<Vec<_>>()
            })
            .collect();
        let logits = |features: &[f32]| {
            let g = Graph::new(gpu().caps());
            let w = Weights::new(&g, DType::F32);
            g.output("logits", run.network.classify(&w, g.input("f", &[256, 16], DType::F32)));
            let mut plan = Plan::new(gpu(), g, &store).unwrap();
            plan.write("f", features).unwrap();
            plan.run().unwrap();
            plan.read("logits").unwrap()
        };
        let (before, after) = (logits(&features), logits(&restyled));
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
        norm(&mut before.iter().zip(&after).map(|(a, b)| a - b)) / norm(&mut before.iter().copied())
    };
    let (erm, sagnet) = (moved("ERM"), moved("SagNet"));
    assert!(sagnet < 0.7 * erm, "logits move by {erm} of ERM, {sagnet} of SagNet");
}

#[test]
fn mldg_without_anything_to_train_on_is_refused() {
    let run = Run::new("MLDG", 8, 4, &CORNERS[..2], &[]);
    let setup = |corrected| Setup { hparams: &run.hparams, preset: Preset::Db2024, corrected, envs: 2 };
    let error = algorithm("MLDG", &setup(false)).err().unwrap().to_string();
    assert!(error.contains("n_meta_test = 2 and 2 training environments would train nothing"), "{error}");
    assert!(algorithm("MLDG", &setup(true)).is_ok());
    let error = algorithm("MDLG", &setup(true)).err().unwrap().to_string();
    assert_eq!(error, "no algorithm MDLG: did you mean MLDG?");
}

#[test]
fn an_update_that_does_not_fit_recomputes_and_gives_the_same_numbers() {
    use kaleid::domainbed::network::TrainNorm;
    use kaleid::models::resnet::ResNetConfig;
    for (name, norm) in
        [("ERM", TrainNorm::Frozen), ("CORAL", TrainNorm::Frozen), ("GroupDRO", TrainNorm::Live)]
    {
        let run = Run::new(name, 0, 4, &CORNERS, &[]);
        let config = ResNetConfig::named("resnet18", 8).unwrap();
        let network = Network {
            featurizer: Featurizer::ResNet(config, norm),
            classes: 4,
            nonlinear: false,
            f16_activations: false,
        };
        let train = |gpu: &Gpu| {
            let samples = Samples::Numbers(vec![64, 64, 4]);
            let spec = Spec { network: &network, batch: 4, ..run.spec(&samples) };
            let mut store = Store::new(gpu);
            let init = |name: &str, shape: &[usize], fan_in| Ok(network.initial(name, shape, fan_in, 3));
            let mut trainer = Trainer::new(&mut store, run.make(), &spec, init).unwrap();
            let x: Vec<f32> = (0..12 * 64 * 64 * 4).map(|i| Key::new(5, 0, "x").normal(i)).collect();
            let y: Vec<u32> = (0..12).map(|i| i % 4).collect();
            trainer.step(0, Rows::Numbers(&x), &y, 0).unwrap();
            let loss = trainer.logged(0, 1).unwrap()["loss"];
            // A tenth of the gradient.
            let names = ["conv1.weight", "layer1.0.bn1.weight", "layer4.1.conv2.weight", "fc.bias"];
            let read = |name: &str| store.read(name).unwrap().1;
            let mut results: Vec<Vec<f32>> = names.iter().map(|n| read(&format!("{n}.exp_avg"))).collect();
            results.extend([read("layer2.0.bn1.running_mean"), vec![loss]]);
            (results, trainer.memory(), trainer.saving())
        };
        let (want, whole, saving) = train(gpu());
        assert_eq!((saving.chunks, saving.recompute), (1, false));
        let (got, less, saving) = train(&limited(whole - whole / 8));
        assert!(saving.chunks > 1 || saving.recompute, "{name}: {saving:?}");
        assert!(less < whole, "{name}: {less} bytes with {saving}, {whole} without");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let largest = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let error = got.iter().zip(want).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs()));
            assert!(error <= 1e-4 * largest, "{name}, {saving}: result {i} is {error} off, of {largest}");
        }
    }
    let run = Run::new("ERM", 8, 4, &CORNERS, &[]);
    let samples = Samples::Numbers(vec![8]);
    let spec = run.spec(&samples);
    let init = |name: &str, shape: &[usize], fan_in| Ok(run.network.initial(name, shape, fan_in, 3));
    let error =
        Trainer::new(&mut Store::new(&limited(0)), run.make(), &spec, init).err().unwrap().to_string();
    assert!(error.contains("--memory allows 0 MiB: choose a smaller size or batch"), "{error}");
}

#[test]
fn every_algorithm_heeds_what_a_sample_counts_and_ones_change_no_bit() {
    for name in names() {
        let run = Run::new(name, 8, 4, &CORNERS, &[]);
        let samples = Samples::Numbers(vec![8]);
        // After a step with what each sample counts, if anything is said about it.
        let trained = |weights: Option<[f32; 3]>| {
            let spec = Spec { weighted: weights.is_some(), ..run.spec(&samples) };
            let mut store = Store::new(gpu());
            let init = |name: &str, shape: &[usize], fan_in| Ok(run.network.initial(name, shape, fan_in, 3));
            let mut trainer = Trainer::new(&mut store, run.make(), &spec, init).unwrap();
            let (x, y) = run.minibatch(0);
            if let Some(kinds) = weights {
                trainer.weigh(&(0..y.len()).map(|i| kinds[i % 3]).collect::<Vec<_>>()).unwrap();
            }
            trainer.step(0, Rows::Numbers(&x), &y, 0).unwrap();
            // Of Adam's first moments: what it does to a parameter hardly depends on the size of a gradient. Fish has none of its own.
            let read = |name: &str| store.read(&format!("{name}.exp_avg")).or(store.read(name)).unwrap().1;
            (read("fc.weight"), trainer.logged(0, 1).unwrap())
        };
        let usual = trained(None);
        assert!(trained(Some([1.0; 3])) == usual, "{name}: ones");
        assert!(trained(Some([1.0, 0.25, 3.0])).0 != usual.0, "{name}: other numbers");
    }
}

/// Gradients of some parameters by one step of a network, as Adam's first moments.
type Gradients = [Vec<f32>; 4];

/// The gradients at the same weights for images with each of these `noises` of 1e-3 (the first is none), and what the trainer takes.
fn gradients_of_noise(
    run: &Run,
    network: &Network,
    size: usize,
    noises: u32,
    gpu: &Gpu,
) -> (Vec<Gradients>, usize, Saving) {
    let samples = Samples::Numbers(vec![size, size, 4]);
    let spec = Spec { network, batch: 16, ..run.spec(&samples) };
    let mut store = Store::new(gpu);
    let init = |name: &str, shape: &[usize], fan_in| Ok(network.initial(name, shape, fan_in, 3));
    let mut trainer = Trainer::new(&mut store, run.make(), &spec, init).unwrap();
    let start = store.names().into_iter().map(|name| (store.read(&name).unwrap(), name)).collect::<Vec<_>>();
    let y: Vec<u32> = (0..48).map(|i| i % 4).collect();
    let gradients = |draw: u32| {
        for ((shape, data), name) in &start {
            store.write(name, shape, data).unwrap();
        }
        let noise = if draw == 0 { 0.0 } else { 1e-3 };
        let pixel = |i| Key::new(5, 0, "x").normal(i) + noise * Key::new(6, draw, "noise").normal(i);
        let x: Vec<f32> = (0..(48 * size * size * 4) as u32).map(pixel).collect();
        trainer.step(0, Rows::Numbers(&x), &y, 0).unwrap();
        // Fish moves parameters by other means than Adam.
        let read = |name: &str| store.read(&format!("{name}.exp_avg")).or(store.read(name)).unwrap().1;
        ["conv1.weight", "layer1.0.bn1.weight", "layer4.1.conv2.weight", "fc.bias"].map(read)
    };
    ((0..noises).map(gradients).collect(), trainer.memory(), trainer.saving())
}

#[test]
fn f16_activations_take_less_memory_and_move_gradients_no_more_than_a_little_noise_does() {
    use kaleid::domainbed::network::TrainNorm;
    use kaleid::models::resnet::ResNetConfig;
    // Those that go through the network in ways of their own, and one whose pass is in chunks or recomputed.
    for (name, norm) in [
        ("ERM", TrainNorm::Live),
        ("ERM", TrainNorm::Frozen),
        ("MLDG", TrainNorm::Frozen),
        ("Fish", TrainNorm::Frozen),
        ("SagNet", TrainNorm::Live),
        ("DANN", TrainNorm::Frozen),
        ("ANDMask", TrainNorm::Frozen),
    ] {
        let run = Run::new(name, 0, 4, &CORNERS, &[]);
        let featurizer = Featurizer::ResNet(ResNetConfig::named("resnet18", 8).unwrap(), norm);
        let network = |f16_activations| Network {
            featurizer: featurizer.clone(),
            classes: 4,
            nonlinear: false,
            f16_activations,
        };
        let (f32s, f16s, size) = (network(false), network(true), if name == "ERM" { 64 } else { 32 });
        // How far a little noise moves gradients varies from draw to draw, most of all where they are divided by their size (MLDG).
        let (seen, whole, _) = gradients_of_noise(&run, &f32s, size, 5, gpu());
        let (got, half, _) = gradients_of_noise(&run, &f16s, size, 1, gpu());
        let most = if name == "ERM" { whole * 3 / 4 } else { whole };
        assert!(half < most, "{name}: {half} bytes, {whole} in f32");
        let mut results = got;
        if name == "ERM" {
            let (got, less, saving) = gradients_of_noise(&run, &f16s, size, 1, &limited(half - half / 8));
            assert!(
                less < half && (saving.chunks > 1 || saving.recompute),
                "{norm:?}: {less} bytes, {saving:?}"
            );
            results.extend(got);
        }
        for (i, got) in results.iter().flat_map(|r| r.iter().enumerate()) {
            let length = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
            let want = &seen[0][i];
            let off = |of: &[f32]| {
                length(&mut of.iter().zip(want).map(|(a, b)| a - b)) / length(&mut want.iter().copied())
            };
            let noise = seen[1..].iter().map(|near| off(&near[i])).fold(0.0, f32::max);
            let (error, allowed) = (off(got), 3.0 * noise + 1e-3);
            assert!(error < allowed, "{name}, {norm:?}: gradient {i} is {error} off, allowed {allowed}");
        }
    }
}

/// Classes of images that differ in brightness.
fn brightness(step: u32, rows: usize, size: usize) -> (Vec<f32>, Vec<u32>) {
    let (key, pixels) = (Key::new(9, step, "brightness"), size * size);
    let y: Vec<u32> = (0..rows as u32).map(|row| row % 4).collect();
    let value = |i: usize| match i % 4 {
        3 => 0.0,
        _ => 0.5 * y[i / 4 / pixels] as f32 - 0.75 + 0.5 * key.normal(i as u32),
    };
    ((0..rows * pixels * 4).map(value).collect(), y)
}

#[test]
fn the_networks_for_small_images_and_the_classifier_of_three_layers_learn() {
    use kaleid::domainbed::network::TrainNorm;
    let run = Run::new("ERM", 0, 4, &CORNERS[..2], &[("lr", json!(0.003))]);
    for (arch, size, nonlinear, f16_activations) in [
        ("mnist_cnn", 28, false, false),
        ("wide_resnet", 32, false, false),
        ("mnist_cnn", 28, true, true),
        ("wide_resnet", 32, false, true),
    ] {
        let featurizer = Featurizer::named(arch, size, 64, [7, 2], TrainNorm::Live).unwrap();
        assert_eq!(Featurizer::default_name(size), arch);
        let network = Network { featurizer, classes: 4, nonlinear, f16_activations };
        let samples = Samples::Numbers(vec![size, size, 4]);
        let spec = Spec { network: &network, batch: 4, ..run.spec(&samples) };
        let mut store = Store::new(gpu());
        let init = |name: &str, shape: &[usize], fan_in| Ok(network.initial(name, shape, fan_in, 3));
        let mut trainer = Trainer::new(&mut store, run.make(), &spec, init).unwrap();
        let mut losses = vec![];
        for step in 0..16 {
            let (x, y) = brightness(step, 8, size);
            trainer.step(step, Rows::Numbers(&x), &y, step).unwrap();
            losses.push(trainer.logged(step, step + 1).unwrap()["loss"]);
        }
        let head = if nonlinear { ("fc.4.weight", vec![4, 32]) } else { ("fc.weight", vec![4, 128]) };
        assert_eq!(store.read(head.0).unwrap().0, head.1, "{arch}");
        let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len() as f32;
        assert!(mean(&losses[12..]) < 0.6 * mean(&losses[..4]), "{arch}: {losses:?}");
    }
    assert!(Featurizer::named("mnist_cnn", 32, 64, [7, 2], TrainNorm::Live).is_err());
}
