//! Networks that the algorithms train: a featurizer and a classifier.

use crate::core::{Caps, Class, DType, Graph, Tensor, Weights};
use crate::data::rng::Key;
use crate::models::resnet::{self, BatchNorm, KEEP, ResNetConfig, for_images, norm};
use crate::nn;
use crate::ops::{Act, Conv, Epilogue};
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
        /// Where samples are normalised by statistics of the batch: of how many equal parts of it, each by its own.
        parts: usize,
        /// Make what is inside a residual block again for the backward pass instead of keeping it.
        recompute: bool,
    },
}

/// From samples to feature vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Featurizer {
    /// Images (N, H, W, 3); what batch normalisation does in training.
    ResNet(ResNetConfig, BatchNorm),
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
        mode: BatchNorm,
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
        if !self.f16_activations || pass == Pass::Predict {
            return self.featurize(g, w, x, pass);
        }
        g.scale_gradients(x, |g, x| self.featurize(g, w, g.to(x, DType::F16), pass))
    }

    fn featurize(&self, g: &Graph, w: &Weights, x: Tensor, pass: Pass) -> Tensor {
        let (mode, recompute) = match pass {
            Pass::Train { parts, recompute } if self.sees_batches() => (BatchNorm::Live(parts), recompute),
            Pass::Train { recompute, .. } => (BatchNorm::Frozen, recompute),
            Pass::Predict => (BatchNorm::Frozen, false),
        };
        match &self.featurizer {
            Featurizer::ResNet(config, _) => resnet::features(g, w, config, x, mode, recompute),
            Featurizer::MnistCnn => mnist_cnn(g, w, x),
            Featurizer::WideResNet => wide_resnet(g, w, x, mode),
            Featurizer::Mlp(shape) => mlp(g, w, x, shape, |x| x),
        }
    }

    /// Whether training normalises by statistics of the batch, so that it matters which samples are passed together.
    pub fn sees_batches(&self) -> bool {
        matches!(self.featurizer, Featurizer::ResNet(_, BatchNorm::Live(_)) | Featurizer::WideResNet)
    }

    /// Names of the featurizer's tensors for images of `size` pixels, and their numbers of elements.
    pub fn featurizer_tensors(&self, size: usize) -> BTreeMap<String, usize> {
        let g = Graph::new(&Caps::nominal(Class::Software));
        let w = Weights::new(&g, DType::F32);
        self.features(&g, &w, g.input("x", &[1, size, size, 4], DType::F32), Pass::Predict);
        w.params().into_iter().map(|(name, t)| (name, t.len())).collect()
    }

    /// Logits (N, classes) of features.
    pub fn classify(&self, g: &Graph, w: &Weights, features: Tensor) -> Tensor {
        self.head(g, &w.sub("fc"), features)
    }

    /// Logits (N, classes) of features by the classifier at `w`.
    pub fn head(&self, g: &Graph, w: &Weights, features: Tensor) -> Tensor {
        if !self.nonlinear {
            return nn::linear(g, w, features, self.classes, true);
        }
        let layer = |x: Tensor, name: &str, out: usize| nn::linear(g, &w.sub(name), x, out, true);
        let inputs = features.last();
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

/// A 3x3 or 1x1 convolution with a bias, of features or of images with a fourth channel of zeros.
fn conv(g: &Graph, w: &Weights, x: Tensor, out: usize, kernel: usize, stride: usize) -> Tensor {
    let conv = Conv::strided(stride, kernel / 2);
    if x.last() != 4 {
        return nn::conv2d(g, w, x, out, kernel, conv, true);
    }
    let (weight, bias) = (w.get("weight", &[out, 3, kernel, kernel]), Some(w.get("bias", &[out])));
    g.conv2d(x, for_images(g, weight), Conv { epilogue: Epilogue { bias, ..conv.epilogue }, ..conv })
}

/// Images (N, 28, 28, 3) -> features (N, 128). Normalisation comes after the ReLU.
fn mnist_cnn(g: &Graph, w: &Weights, images: Tensor) -> Tensor {
    let mut x = images;
    for (i, (out, stride)) in [(64, 1), (128, 2), (128, 1), (128, 1)].into_iter().enumerate() {
        x = g.relu(conv(g, &w.sub(format!("conv{}", i + 1)), x, out, 3, stride));
        x = nn::group_norm(g, &w.sub(format!("bn{i}")), x, 8, 1e-5, Act::None);
    }
    g.reshape(g.mean(x, &[1, 2]), &[images.dim(0), 128])
}

/// Images (N, 32, 32, 3) -> features (N, 128). Normalisation and ReLU come before each convolution.
fn wide_resnet(g: &Graph, w: &Weights, images: Tensor, mode: BatchNorm) -> Tensor {
    let mut x = conv(g, &w.sub("conv1"), images, 16, 3, 1);
    for (stage, (out, stride)) in [(32, 1), (64, 2), (128, 2)].into_iter().enumerate() {
        for i in 0..2 {
            let w = w.sub(format!("layer{}.{i}", stage + 1));
            let stride = if i == 0 { stride } else { 1 };
            let active = |name: &str, x: Tensor| g.relu(norm(g, &w.sub(name), x, mode, KEEP));
            let y = conv(g, &w.sub("conv1"), active("bn1", x), out, 3, 1);
            let y = conv(g, &w.sub("conv2"), active("bn2", y), out, 3, stride);
            let changes = stride != 1 || x.last() != out;
            let shortcut = if changes { conv(g, &w.sub("shortcut.0"), x, out, 1, stride) } else { x };
            x = g.add(y, shortcut);
        }
    }
    // Upstream's momentum is 0.9 here.
    let x = g.relu(norm(g, &w.sub("bn1"), x, mode, 0.1));
    g.reshape(g.mean(x, &[1, 2]), &[images.dim(0), 128])
}
