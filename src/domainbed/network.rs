//! Networks that the algorithms train: a featurizer and a classifier.

use crate::core::{Arch, Caps, Class, DType, Graph, Tensor, Weights};
use crate::data::rng::Key;
use crate::models::resnet::{self, ResNet, ResNetConfig, image_kernel};
use crate::nn::{self, KEEP, NormMode};
use crate::ops::{Act, Conv};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// A featurizer and a classifier on top of it. Parameters have torchvision's or DomainBed's names; the classifier is `fc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// From samples to feature vectors.
    pub featurizer: Featurizer,
    /// Length of the logits.
    pub classes: usize,
    /// Whether the classifier is three linear layers, each half as wide as the one before, with ReLU between them, and not one.
    pub nonlinear: bool,
    /// Whether training keeps the featurizer's activations and their gradients in f16.
    pub f16_activations: bool,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Predictions: running statistics are used.
    Predict,
    /// Gradients.
    Train {
        /// Where samples are normalised by statistics of the batch: into how many equal groups it is split, each with its own.
        groups: usize,
        /// Whether the backward pass recomputes what is inside a residual block instead of keeping it.
        recompute: bool,
    },
}

/// What a ResNet's batch normalisation does in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainNorm {
    /// It normalises by the running statistics, which stay as they are: DomainBed's way.
    Frozen,
    /// It normalises by the statistics of the batch: torch's way.
    Live,
}

/// From samples to feature vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Featurizer {
    /// Images (N, H, W, 3).
    ResNet(ResNetConfig, TrainNorm),
    /// Images (N, 28, 28, 3): DomainBed's MNIST_CNN.
    MnistCnn,
    /// Images (N, 32, 32, 3): a wide residual network of 16 layers, twice as wide (Zagoruyko and Komodakis, "Wide residual networks",
    /// 2016), as DomainBed has it: biases in the convolutions, no dropout.
    WideResNet,
    /// Vectors (N, F), for toy data; without dropout.
    Mlp(Mlp),
}

impl Featurizer {
    /// `mnist_cnn`, `wide_resnet`, or a ResNet by [`ResNetConfig::named`] whose stem has this kernel and stride, for images of `size`
    /// pixels.
    ///
    /// # Errors
    /// Another name; a size that the network is not made for.
    pub fn named(
        arch: &str,
        size: usize,
        width: usize,
        [stem_kernel, stem_stride]: [usize; 2],
        mode: TrainNorm,
    ) -> Result<Featurizer> {
        let (featurizer, made_for) = match arch {
            "mnist_cnn" => (Featurizer::MnistCnn, 28),
            "wide_resnet" => (Featurizer::WideResNet, 32),
            _ => {
                let config = ResNetConfig { stem_kernel, stem_stride, ..ResNetConfig::named(arch, width)? };
                return Ok(Featurizer::ResNet(config, mode));
            }
        };
        if size != made_for {
            bail!("--size {size}: {arch} takes images of {made_for} pixels");
        }
        Ok(featurizer)
    }

    /// What DomainBed takes for images of `size` pixels.
    pub fn default_name(size: usize) -> &'static str {
        match size {
            28 => "mnist_cnn",
            32 => "wide_resnet",
            _ => "resnet50",
        }
    }
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
pub fn mlp(w: &Weights, x: Tensor, mlp: &Mlp, dropout: impl Fn(Tensor) -> Tensor) -> Tensor {
    let g = w.graph();
    let mut x = nn::linear(&w.sub("input"), x, mlp.width);
    for i in 0..mlp.depth - 2 {
        x = nn::linear(&w.sub(format!("hiddens.{i}")), g.relu(dropout(x)), mlp.width);
    }
    nn::linear(&w.sub("output"), g.relu(dropout(x)), mlp.outputs)
}

impl Network {
    /// Features (N, F) of samples.
    pub fn features(&self, w: &Weights, x: Tensor, pass: Pass) -> Tensor {
        if !self.f16_activations || pass == Pass::Predict {
            return self.featurize(w, x, pass);
        }
        w.graph().scale_gradients(x, |g, x| self.featurize(w, g.to(x, DType::F16), pass))
    }

    fn featurize(&self, w: &Weights, x: Tensor, pass: Pass) -> Tensor {
        let (norm, recompute) = match pass {
            Pass::Train { groups, recompute } if self.sees_batches() => {
                (NormMode::Live { groups }, recompute)
            }
            Pass::Train { recompute, .. } => (NormMode::Frozen, recompute),
            Pass::Predict => (NormMode::Frozen, false),
        };
        match self.featurizer {
            Featurizer::ResNet(config, _) => ResNet { config, norm, recompute }.features(w, x),
            Featurizer::MnistCnn => mnist_cnn(w, x),
            Featurizer::WideResNet => wide_resnet(w, x, norm),
            Featurizer::Mlp(ref shape) => mlp(w, x, shape, |x| x),
        }
    }

    /// Whether training normalises by statistics of the batch, so that it matters which samples are passed together.
    pub fn sees_batches(&self) -> bool {
        matches!(self.featurizer, Featurizer::ResNet(_, TrainNorm::Live) | Featurizer::WideResNet)
    }

    /// Names of the featurizer's tensors for images of `size` pixels, and their numbers of elements.
    pub fn featurizer_tensors(&self, size: usize) -> BTreeMap<String, usize> {
        let g = Graph::new(&Caps::nominal(Class::Software, Arch::Other));
        let w = Weights::new(&g, DType::F32);
        self.features(&w, g.input("x", &[1, size, size, 4], DType::F32), Pass::Predict);
        w.params().into_iter().map(|p| (p.name, p.tensor.len())).collect()
    }

    /// Logits (N, classes) of features.
    pub fn classify(&self, w: &Weights, features: Tensor) -> Tensor {
        self.head(&w.sub("fc"), features)
    }

    /// Logits (N, classes) of features by the classifier at `w`.
    pub fn head(&self, w: &Weights, features: Tensor) -> Tensor {
        if !self.nonlinear {
            return nn::linear(w, features, self.classes);
        }
        let layer = |x: Tensor, name: &str, out: usize| nn::linear(&w.sub(name), x, out);
        let (g, inputs) = (w.graph(), features.last());
        let x = g.relu(layer(features, "0", inputs / 2));
        layer(g.relu(layer(x, "2", inputs / 4)), "4", self.classes)
    }

    /// Random initial values, as torch has them, of the tensor `name` of torch's shape `shape`, in a layer with `fan_in` inputs to an
    /// output, or in one that only scales and shifts.
    pub fn initial(&self, name: &str, shape: &[usize], fan_in: Option<usize>, seed: u64) -> Vec<f32> {
        let (n, key) = (shape.iter().product::<usize>() as u32, Key::new(seed, 0, name));
        match (&self.featurizer, shape.len(), fan_in) {
            _ if name == "class_embeddings.weight" => (0..n).map(|i| key.normal(i)).collect(),
            // Torchvision's are not torch's.
            (Featurizer::ResNet(..), 4, _) | (_, _, None) => resnet::initial(name, shape, seed),
            (_, _, Some(fan_in)) => {
                let bound = 1.0 / (fan_in as f32).sqrt();
                (0..n).map(|i| bound * (2.0 * key.uniform(i) - 1.0)).collect()
            }
        }
    }
}

/// The first convolution, of images.
fn stem(w: &Weights, images: Tensor, out: usize) -> Tensor {
    let kernel = image_kernel(w, images, out, Conv::same(3));
    w.graph().conv2d(images, kernel, Conv::same(3).bias(w.get("bias", &[out])))
}

/// Images (N, 28, 28, 3) -> features (N, 128). Normalisation comes after the ReLU.
fn mnist_cnn(w: &Weights, images: Tensor) -> Tensor {
    let g = w.graph();
    let norm = |i: usize, x| nn::group_norm(&w.sub(format!("bn{i}")), g.relu(x), 8, 1e-5, Act::None);
    let mut x = norm(0, stem(&w.sub("conv1"), images, 64));
    for (i, stride) in [(1, 2), (2, 1), (3, 1)] {
        x = norm(i, nn::conv2d(&w.sub(format!("conv{}", i + 1)), x, 128, Conv::strided(3, stride)));
    }
    g.reshape(g.mean(x, &[1, 2]), &[images.dim(0), 128])
}

/// Images (N, 32, 32, 3) -> features (N, 128). Normalisation and ReLU come before each convolution.
fn wide_resnet(w: &Weights, images: Tensor, mode: NormMode) -> Tensor {
    let g = w.graph();
    let mut x = stem(&w.sub("conv1"), images, 16);
    for (stage, (out, stride)) in [(32, 1), (64, 2), (128, 2)].into_iter().enumerate() {
        for i in 0..2 {
            let w = w.sub(format!("layer{}.{i}", stage + 1));
            let stride = if i == 0 { stride } else { 1 };
            let active = |name: &str, x: Tensor| g.relu(nn::batch_norm(&w.sub(name), x, mode, KEEP));
            let y = nn::conv2d(&w.sub("conv1"), active("bn1", x), out, Conv::same(3));
            let y = nn::conv2d(&w.sub("conv2"), active("bn2", y), out, Conv::strided(3, stride));
            let shortcut = match stride != 1 || x.last() != out {
                true => nn::conv2d(&w.sub("shortcut.0"), x, out, Conv::strided(1, stride)),
                false => x,
            };
            x = g.add(y, shortcut);
        }
    }
    // Upstream's momentum is 0.9 here.
    let x = g.relu(nn::batch_norm(&w.sub("bn1"), x, mode, 0.1));
    g.reshape(g.mean(x, &[1, 2]), &[images.dim(0), 128])
}
