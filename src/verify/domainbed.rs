//! Recordings of upstream's algorithms: the same network, minibatches and random draws must give the same numbers.
//!
//! `domainbed.json` holds, by algorithm, hyper-parameters and for each update what it returned and drew; `domainbed.safetensors`
//! the minibatches (`batch.step0.env0.x`), the weights before and after (`ALG.init.*`, `ALG.final.*`), large draws and
//! predictions on `test.x`. The featurizer is an MLP.

use crate::core::{Gpu, Store};
use crate::data::checkpoint::Checkpoint;
use crate::data::rng::Key;
use crate::domainbed::algorithms::fish::INNER;
use crate::domainbed::draws::{Draw, Draws};
use crate::domainbed::hparams::{Hparams, Preset};
use crate::domainbed::network::{Featurizer, Mlp, Network};
use crate::domainbed::predictor::Predictor;
use crate::domainbed::samples::{Rows, Samples};
use crate::domainbed::trainer::Trainer;
use crate::domainbed::{AVERAGE, Setup, Spec, algorithm};
use crate::verify::golden::Comparison;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};

/// Largest error of returned values, final parameters and predictions.
const TOLERANCE: f64 = 1e-4;

/// Whether a JSON golden is such a recording.
pub fn is_recording(keys: &Map<String, Value>) -> bool {
    !keys.is_empty() && keys.values().all(|v| v.get("hparams").is_some() && v.get("steps").is_some())
}

/// Replays every algorithm.
///
/// # Errors
/// A recording that is incomplete or does not fit; a device that fails.
pub fn replay(gpu: &Gpu, keys: &Map<String, Value>, tensors: &Checkpoint) -> Result<Vec<Comparison>> {
    let mut out = vec![];
    for (name, record) in keys {
        let all = Recording { name, record, tensors }.replay(gpu);
        out.extend(all.with_context(|| format!("{}: {name}", tensors.name()))?);
    }
    Ok(out)
}

struct Recording<'a> {
    name: &'a str,
    record: &'a Value,
    tensors: &'a Checkpoint,
}

/// Our name of upstream's tensor.
fn ours(name: &str) -> String {
    let featurizer = ["featurizer.", "network.0.", "network_f.", "network.net.0."];
    let classifier = ["classifier.", "network.1.", "network_c.", "network.net.1."];
    for (copy, prefix) in [("network_inner.", INNER), ("network_sma.", AVERAGE)] {
        if let Some(rest) = name.strip_prefix(copy) {
            return format!("{prefix}{}", ours(&format!("network.{rest}")));
        }
    }
    let rest = |prefixes: &[&str]| prefixes.iter().find_map(|p| name.strip_prefix(p));
    match (rest(&featurizer), rest(&classifier)) {
        (Some(rest), _) => rest.to_string(),
        (_, Some(rest)) => format!("fc.{rest}"),
        _ => name.to_string(),
    }
}

impl Recording<'_> {
    /// Shape and values of each tensor `ALG.{when}.*`, under our names.
    fn weights(&self, when: &str) -> Result<BTreeMap<String, (Vec<usize>, Vec<f32>)>> {
        let prefix = format!("{}.{when}.", self.name);
        let names = self.tensors.names().filter_map(|n| Some((ours(n.strip_prefix(&prefix)?), n)));
        names.map(|(name, theirs)| Ok((name, self.tensors.tensor(theirs)?))).collect()
    }

    /// The minibatch of a step, environment after environment, and the number of these.
    fn minibatch(&self, step: usize) -> Result<(Vec<f32>, Vec<u32>, Vec<usize>, usize)> {
        let (mut x, mut y, mut shape, mut envs) = (vec![], vec![], vec![], 0);
        while self.tensors.contains(&format!("batch.step{step}.env{envs}.x")) {
            let of = |what| format!("batch.step{step}.env{envs}.{what}");
            let (found, values) = self.tensors.tensor(&of("x"))?;
            if envs > 0 && found != shape {
                bail!("{}: shape {found:?}, not {shape:?}", of("x"));
            }
            x.extend(values);
            y.extend(self.tensors.u32s(&of("y"))?);
            (shape, envs) = (found, envs + 1);
        }
        if envs == 0 {
            bail!("no batch.step{step}.env0.x");
        }
        Ok((x, y, shape, envs))
    }

    fn draws(&self, step: &Value) -> Result<VecDeque<Draw>> {
        let draws = step.get("draws").and_then(Value::as_array).context("a step without draws")?;
        let draw = |draw: &Value| {
            let (kind, value) = (draw[0].as_str().unwrap_or_default(), &draw[1]);
            let name = value.as_str().unwrap_or_default();
            Ok(match kind {
                "beta" => Draw::Beta(value.as_f64().context("a beta variate that is no number")? as f32),
                "integer" => {
                    Draw::Integer(value.as_u64().context("a drawn number that is no whole one")? as usize)
                }
                "permutation" => {
                    Draw::Permutation(self.tensors.u32s(name)?.iter().map(|&i| i as usize).collect())
                }
                "uniform" => Draw::Uniform(self.tensors.tensor(name)?.1),
                "normal" => Draw::Normal(self.tensors.tensor(name)?.1),
                _ => bail!("a draw of the kind {kind:?}, which is not known"),
            })
        };
        draws.iter().map(draw).collect()
    }

    fn replay(&self, gpu: &Gpu) -> Result<Vec<Comparison>> {
        let hparams = self.record["hparams"].as_object().context("hparams is not an object")?;
        let hparams = Hparams(hparams.clone());
        let steps = self.record["steps"].as_array().context("steps is not an array")?;
        let init = self.weights("init")?;
        let shape = |name: &str| match init.get(name) {
            Some((shape, _)) if shape.len() == 2 => Ok([shape[0], shape[1]]),
            _ => Err(anyhow!("no weights of {name}")),
        };
        let hiddens = (0..).take_while(|i| init.contains_key(&format!("hiddens.{i}.weight"))).count();
        let featurizer = Mlp {
            width: shape("input.weight")?[0],
            depth: hiddens + 2,
            outputs: shape("output.weight")?[0],
            dropout: 0.0,
        };
        let network = Network {
            featurizer: Featurizer::Mlp(featurizer),
            classes: shape("fc.weight")?[0],
            nonlinear: false,
            f16_activations: false,
        };
        let (_, _, sample, envs) = self.minibatch(0)?;
        let setup = Setup { hparams: &hparams, preset: Preset::Dbhead, corrected: false, envs };
        let make = || algorithm(self.name, &setup);
        let samples = Samples::Numbers(sample[1..].to_vec());
        let spec = Spec {
            network: &network,
            hparams: &hparams,
            samples: &samples,
            envs,
            batch: sample[0],
            weighted: false,
            seed: 0,
            average_from: make()?.average_from(),
            recompute: false,
        };
        let mut store = Store::new(gpu);
        let value = |name: &str, _: &[usize], _: Option<usize>| {
            init.get(name).map(|t| t.1.clone()).with_context(|| format!("no initial values of {name}"))
        };
        let mut trainer = Trainer::new(&mut store, make()?, &spec, value)?;

        // By name, over all steps: what was returned, and what should have been.
        let mut returned: BTreeMap<String, [Vec<f32>; 2]> = BTreeMap::new();
        for (step, record) in (0..).zip(steps) {
            let (x, y, found, _) = self.minibatch(step as usize)?;
            if found != sample {
                bail!("batch.step{step}: shape {found:?}, not {sample:?}");
            }
            let mut draws = Draws::Recorded(self.draws(record)?);
            trainer.step_with(step, Rows::Numbers(&x), &y, step, &mut draws)?;
            if let Draws::Recorded(left) = draws
                && !left.is_empty()
            {
                bail!("step {step}: {} recorded draws were not drawn", left.len());
            }
            for (name, value) in trainer.logged(step, step + 1)? {
                returned.entry(name.into()).or_default()[0].push(value);
            }
            for (name, value) in record["returned"].as_object().context("returned is not an object")? {
                let value = value.as_f64().with_context(|| format!("{name} is not a number"))?;
                returned.entry(name.clone()).or_default()[1].push(value as f32);
            }
        }
        let what = |of: &str| format!("{} {of}", self.name);
        let compare = |of: &str, got: &[f32], want: &[f32]| Comparison::new(&what(of), got, want, TOLERANCE);
        let mut out: Vec<Comparison> =
            returned.iter().map(|(name, [got, want])| compare(name, got, want)).collect();
        let held = store.names();
        for (name, (_, want)) in self.weights("final")? {
            // Upstream makes tensors that it never uses.
            let unused = || init.get(&name).is_some_and(|t| t.1 == want);
            if held.contains(&name) {
                out.push(compare(&name, &store.read(&name)?.1, &want));
            } else if !unused() {
                bail!("{name} was trained there and is not here");
            }
        }
        let predicted = format!("{}.predict", self.name);
        if self.tensors.contains(&predicted) {
            let (shape, x) = self.tensors.tensor("test.x")?;
            let mut predictor = Predictor::new(&store, &*make()?, &spec, shape[0])?;
            predictor.run(Rows::Numbers(&x), Key::new(0, 0, "predict"))?;
            out.push(compare("predict", &predictor.logits()?, &self.tensors.tensor(&predicted)?.1));
        }
        Ok(out)
    }
}
