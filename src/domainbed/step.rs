//! What algorithms record their updates with.

use super::draws::{Batch, Values};
use super::hparams::Hparams;
use super::network::{Network, Pass};
use super::saving::Saving;
use super::spec::Spec;
use crate::core::{DType, Graph, Init, Tensor, Weights};
use crate::models::resnet;
use crate::ops::Adam;
use anyhow::Result;
use std::cell::{Cell, RefCell};

/// What an algorithm records its update with.
pub struct Step<'a> {
    /// The graph to record in.
    pub g: &'a Graph,
    /// The parameters.
    pub w: Weights<'a>,
    /// The network they belong to.
    pub network: &'a Network,
    /// Samples (E B, ..): B rows of the first training environment, then B of the second, and so on.
    pub x: Tensor,
    /// Their labels, U32 (E B).
    pub y: Tensor,
    /// What each sample counts in the cross entropy (E B), where they do not all count as one.
    pub weights: Option<Tensor>,
    /// Number E of training environments.
    pub envs: usize,
    /// Whose turn it is.
    pub turn: usize,
    hparams: &'a Hparams,
    /// Adam's t at this step, (1).
    count: Tensor,
    /// Dropout masks so far.
    masks: Cell<usize>,
    fillers: RefCell<Vec<Filler>>,
    /// Inputs that the fillers fill.
    filled: Cell<usize>,
    saving: Saving,
}

/// Makes the numbers of some inputs for one step.
pub type Filler = Box<dyn Fn(&mut Batch) -> Result<Vec<Values>>>;

/// The name of the `i`-th input that fillers fill.
pub fn filled_name(i: usize) -> String {
    format!("filled {i}")
}

/// One Adam and its place in its life.
#[derive(Clone, Copy)]
pub struct Optimizer {
    /// Learning rate, (1).
    pub lr: Tensor,
    /// Its t: which update this is, from 1 on, (1).
    pub count: Tensor,
    /// The rest.
    pub adam: Adam,
}

impl<'a> Step<'a> {
    /// What update `turn` of a run as `spec` says is recorded with in `g`.
    pub(super) fn new(g: &'a Graph, spec: &Spec<'a>, turn: usize, saving: Saving) -> Self {
        let rows = spec.envs * spec.batch;
        Step {
            g,
            w: Weights::new(g, DType::F32),
            network: spec.network,
            x: spec.samples.input(g, rows),
            y: g.input("y", &[rows], DType::U32),
            weights: spec.weighted.then(|| g.input("weights", &[rows], DType::F32)),
            envs: spec.envs,
            turn,
            hparams: spec.hparams,
            count: g.input("count", &[1], DType::F32),
            masks: 0.into(),
            fillers: RefCell::default(),
            filled: 0.into(),
            saving,
        }
    }

    /// Inputs of these types and shapes that `fill` makes anew for every step: random draws, annealed weights. Fillers run in the order
    /// in which they are recorded.
    pub fn inputs<const N: usize>(
        &self,
        kinds: [(DType, &[usize]); N],
        fill: impl Fn(&mut Batch) -> Result<[Values; N]> + 'static,
    ) -> [Tensor; N] {
        self.fillers.borrow_mut().push(Box::new(move |batch| Ok(fill(batch)?.into())));
        kinds.map(|(dtype, shape)| {
            let name = filled_name(self.filled.replace(self.filled.get() + 1));
            self.g.input(&name, shape, dtype)
        })
    }

    /// The fillers of all inputs, in order.
    pub(super) fn into_fillers(self) -> Vec<Filler> {
        self.fillers.into_inner()
    }

    /// Features (E B, F) of all samples in training mode, after dropout.
    pub fn features(&self) -> Tensor {
        self.features_of(&self.w, self.x, 1)
    }

    /// Features of the samples `x` in training mode, after dropout, with the parameters `w`. Where the network normalises by statistics
    /// of the batch, each of `groups` equal groups has its own.
    pub fn features_of(&self, w: &Weights, x: Tensor, groups: usize) -> Tensor {
        let (g, network, rows) = (self.g, self.network, x.dim(0));
        let recompute = self.saving.recompute;
        let chunks = match self.saving.chunks {
            1 => 1,
            _ if network.sees_batches() => groups,
            most => most.min(rows),
        };
        let features = match chunks {
            1 => network.features(w, x, Pass::Train { groups, recompute }),
            _ => {
                let size = rows.div_ceil(chunks);
                let chunk = |start: usize| {
                    let (network, weights) = (network.clone(), w.keep());
                    let x = g.slice(x, 0, start, size.min(rows - start));
                    g.recompute(x, move |g, x| {
                        network.features(&weights(g), x, Pass::Train { groups: 1, recompute })
                    })
                };
                g.concat(&(0..rows).step_by(size).map(chunk).collect::<Vec<_>>(), 0)
            }
        };
        self.dropout(features, self.hparams.f32("resnet_dropout"))
    }

    /// Features (B, F) of each environment, for the algorithms that upstream passes environments one by one: one pass, in which each is
    /// a group with statistics of its own, gives the same numbers sooner.
    pub fn features_by_env(&self) -> Vec<Tensor> {
        let all = self.features_of(&self.w, self.x, self.envs);
        (0..self.envs).map(|e| self.env(all, e)).collect()
    }

    /// Logits of features.
    pub fn classify(&self, features: Tensor) -> Tensor {
        self.network.classify(&self.w, features)
    }

    /// Numbers set to zero with probability `p`, by a mask of its own at every call.
    pub fn dropout(&self, x: Tensor, p: f32) -> Tensor {
        if p == 0.0 {
            return x;
        }
        let purpose = format!("dropout {}", self.masks.replace(self.masks.get() + 1));
        let [key] = self.inputs([(DType::U32, &[4])], move |batch| Ok([batch.key(&purpose).into()]));
        self.g.dropout(x, self.g.random_uniform(key, x.shape()), p)
    }

    /// Samples of each environment.
    pub fn batch(&self) -> usize {
        self.x.dim(0) / self.envs
    }

    /// The rows of environment `e` in a tensor of all rows.
    pub fn env(&self, all: Tensor, e: usize) -> Tensor {
        self.g.slice(all, 0, e * self.batch(), self.batch())
    }

    /// The mean cross entropy (1) of the logits of all rows.
    pub fn cross_entropy(&self, logits: Tensor) -> Tensor {
        self.g.mean(self.losses(logits), &[0])
    }

    /// The cross entropy of each row (E B), as often as its sample counts.
    fn losses(&self, logits: Tensor) -> Tensor {
        let rows = self.g.cross_entropy_rows(logits, self.y);
        self.weights.map_or(rows, |weights| self.g.mul(rows, weights))
    }

    /// The mean cross entropy of each environment, (E), from the logits of all rows.
    pub fn risks(&self, logits: Tensor) -> Tensor {
        let rows = self.losses(logits);
        let means = self.g.mean(self.g.reshape(rows, &[self.envs, self.batch()]), &[1]);
        self.g.reshape(means, &[self.envs])
    }

    /// The mean cross entropy (1) of logits (rows, classes) and labels as [`Step::targets`] has them.
    pub fn risk(&self, logits: Tensor, one_hot: Tensor) -> Tensor {
        let right = self.g.sum(self.g.mul(self.g.log_softmax(logits), one_hot), &[0, 1]);
        self.g.scale(self.g.reshape(right, &[1]), -1.0 / logits.dim(0) as f32)
    }

    /// For each row zeros and, at its label, how often its sample counts: (E B, classes).
    pub fn targets(&self) -> Tensor {
        let ones = self.one_hot(self.y);
        self.weights.map_or(ones, |weights| self.g.mul(ones, self.g.reshape(weights, &[weights.len(), 1])))
    }

    /// Ones at the labels, zeros elsewhere: (rows, classes).
    pub fn one_hot(&self, labels: Tensor) -> Tensor {
        let k = self.network.classes;
        let eye: Vec<f32> = (0..k * k).map(|i| if i / k == i % k { 1.0 } else { 0.0 }).collect();
        self.g.gather_rows(self.g.constant(&[k, k], &eye), labels)
    }

    /// Every tensor of the network, by name, before it is used: records a prediction that nobody reads.
    pub fn declare(&self) -> Vec<(String, Tensor)> {
        self.classify(self.network.features(&self.w, self.x, Pass::Predict));
        self.w.params().into_iter().map(|p| (p.name, p.tensor)).collect()
    }

    /// The parameters that the model has asked for so far, as they are now.
    pub fn named_params(&self) -> Vec<(String, Tensor)> {
        let all = self.w.params().into_iter().filter(|p| resnet::is_parameter(&p.name));
        let newest = |t: Tensor, name: &str| self.g.state(name, t.shape(), t.dtype(), Init::Loaded);
        all.map(|p| (p.name.clone(), newest(p.tensor, &p.name))).collect()
    }

    /// Those whose name `which` holds for.
    pub fn params(&self, which: impl Fn(&str) -> bool) -> Vec<Tensor> {
        self.named_params().into_iter().filter(|(name, _)| which(name)).map(|p| p.1).collect()
    }

    /// Adam with the learning rate and weight decay of the hyper-parameters.
    pub fn optimizer(&self) -> Optimizer {
        let adam = Adam { weight_decay: self.hparams.f32("weight_decay"), ..Adam::default() };
        Optimizer { lr: self.number(self.hparams.f32("lr")), count: self.count, adam }
    }

    /// One Adam step on `params` down `grads`.
    pub fn descend(&self, o: Optimizer, params: &[Tensor], grads: &[Tensor]) {
        let pairs: Vec<_> = params.iter().copied().zip(grads.iter().copied()).collect();
        self.g.adam(&pairs, o.lr, o.count, o.adam);
    }

    /// One step of [`Step::optimizer`] on every parameter down the gradient of `loss`.
    pub fn adam(&self, loss: Tensor) {
        let params = self.params(|_| true);
        self.descend(self.optimizer(), &params, &self.g.backward(loss, &params));
    }

    /// A number that never changes, (1).
    pub fn number(&self, value: f32) -> Tensor {
        self.g.constant(&[1], &[value])
    }

    /// The sum of numbers (1).
    pub fn sum(&self, all: &[Tensor]) -> Tensor {
        all.iter().copied().reduce(|a, b| self.g.add(a, b)).expect("at least one number")
    }

    /// The mean of numbers (1).
    pub fn mean(&self, all: &[Tensor]) -> Tensor {
        self.g.scale(self.sum(all), 1.0 / all.len() as f32)
    }
}

/// What a prediction is recorded with.
pub struct Predict<'a> {
    /// The graph to record in.
    pub g: &'a Graph,
    /// The parameters.
    pub w: Weights<'a>,
    /// The network they belong to.
    pub network: &'a Network,
    /// Samples (N, ..).
    pub x: Tensor,
    /// Key for random numbers, U32 (4).
    pub key: Tensor,
}
