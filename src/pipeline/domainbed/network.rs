//! Networks that the algorithms train: a featurizer and a classifier.

use crate::core::{Graph, Tensor, Weights};
use crate::data::rng::Key;
use crate::models::resnet::{self, BatchNorm, ResNetConfig};
use crate::nn;

/// A featurizer and a linear classifier on top of it. Parameters have torchvision's names; the classifier is `fc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// From samples to feature vectors.
    pub featurizer: Featurizer,
    /// Length of the logits.
    pub classes: usize,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Predictions: running statistics are used.
    Predict,
    /// Gradients; with `recompute`, what is inside a residual block is made again for the backward pass instead of being kept.
    Train {
        /// See there.
        recompute: bool,
    },
}

/// From samples to feature vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Featurizer {
    /// Images (N, H, W, 3); what batch normalisation does in training.
    ResNet(ResNetConfig, BatchNorm),
    /// Vectors (N, F), for toy data; without dropout.
    Mlp(Mlp),
}

/// DomainBed's MLP: linear layers with dropout and then ReLU between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mlp {
    /// Width of the hidden layers.
    pub width: usize,
    /// Number of linear layers, at least 2.
    pub depth: usize,
    /// Length of the result.
    pub outputs: usize,
    /// Probability of dropout, whose masks the caller makes.
    pub dropout: f32,
}

/// x (N, F) -> (N, outputs), with what `dropout` makes of each layer but the last.
pub fn mlp(g: &Graph, w: &Weights, x: Tensor, mlp: &Mlp, dropout: impl Fn(Tensor) -> Tensor) -> Tensor {
    let mut x = nn::linear(g, &w.sub("input"), x, mlp.width, true);
    for i in 0..mlp.depth - 2 {
        x = nn::linear(g, &w.sub(format!("hiddens.{i}")), g.relu(dropout(x)), mlp.width, true);
    }
    nn::linear(g, &w.sub("output"), g.relu(dropout(x)), mlp.outputs, true)
}

impl Network {
    /// Features (N, F) of samples.
    pub fn features(&self, g: &Graph, w: &Weights, x: Tensor, pass: Pass) -> Tensor {
        match &self.featurizer {
            Featurizer::ResNet(config, mode) => {
                let (mode, recompute) = match pass {
                    Pass::Predict => (BatchNorm::Frozen, false),
                    Pass::Train { recompute } => (*mode, recompute),
                };
                resnet::features(g, w, config, x, mode, recompute)
            }
            Featurizer::Mlp(shape) => mlp(g, w, x, shape, |x| x),
        }
    }

    /// Whether training normalises by statistics of the batch, so that it matters which samples are passed together.
    pub fn sees_batches(&self) -> bool {
        matches!(self.featurizer, Featurizer::ResNet(_, BatchNorm::Live))
    }

    /// Logits (N, classes) of features.
    pub fn classify(&self, g: &Graph, w: &Weights, features: Tensor) -> Tensor {
        self.head(g, &w.sub("fc"), features)
    }

    /// Logits (N, classes) of features by the classifier at `w`.
    pub fn head(&self, g: &Graph, w: &Weights, features: Tensor) -> Tensor {
        nn::linear(g, w, features, self.classes, true)
    }
}

/// Random initial values of the tensor `name`, of torch's shape `shape`.
pub fn initial(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    if name == "class_embeddings.weight" {
        let key = Key::new(seed, 0, name);
        return (0..shape.iter().product::<usize>() as u32).map(|i| key.normal(i)).collect();
    }
    resnet::initial(name, shape, seed)
}
