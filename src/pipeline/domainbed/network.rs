//! Networks that the algorithms train: a featurizer and a classifier.

use crate::core::{Graph, Tensor, Weights};
use crate::models::resnet::{self, BatchNorm, ResNetConfig};
use crate::nn;
use crate::ops::Epilogue;

/// A featurizer and a linear classifier on top of it. Parameters have torchvision's names; the classifier is `fc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// From samples to feature vectors.
    pub featurizer: Featurizer,
    /// Length of the logits.
    pub classes: usize,
}

/// From samples to feature vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Featurizer {
    /// Images (N, H, W, 3); what batch normalisation does in training.
    ResNet(ResNetConfig, BatchNorm),
    /// Vectors (N, F): DomainBed's MLP, for toy data. Linear layers with ReLU between them: `depth` of them, `width` wide.
    Mlp {
        /// Width of the hidden layers.
        width: usize,
        /// Number of linear layers, at least 2.
        depth: usize,
        /// Length of the feature vector.
        outputs: usize,
    },
}

impl Network {
    /// Features (N, F) of samples.
    pub fn features(&self, g: &Graph, w: &Weights, x: Tensor, training: bool) -> Tensor {
        match &self.featurizer {
            Featurizer::ResNet(config, mode) => {
                let mode = if training { *mode } else { BatchNorm::Frozen };
                resnet::features(g, w, config, x, mode)
            }
            Featurizer::Mlp { width, depth, outputs } => {
                let mut x = nn::linear(g, &w.sub("input"), x, *width, true);
                for i in 0..depth - 2 {
                    x = nn::linear(g, &w.sub(format!("hiddens.{i}")), g.relu(x), *width, true);
                }
                nn::linear(g, &w.sub("output"), g.relu(x), *outputs, true)
            }
        }
    }

    /// Logits (N, classes) of features.
    pub fn classify(&self, g: &Graph, w: &Weights, features: Tensor) -> Tensor {
        nn::linear_with(g, &w.sub("fc"), features, self.classes, true, Epilogue::default())
    }
}
