//! ResNet (He et al., "Deep residual learning for image recognition", 2015) in torchvision's names and topology: the stride of
//! a bottleneck sits on its 3x3 convolution ("v1.5"). Images are (N, H, W, C).

use crate::core::{Graph, Tensor, Weights};
use crate::data::config::Config;
use crate::data::rng::Key;
use crate::nn::{self, KEEP, NormMode};
use crate::ops::Conv;
use anyhow::{Result, bail};

/// Sizes of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Blocks of the four stages.
    pub layers: [usize; 4],
    /// Blocks of three convolutions with a narrow middle, as in ResNet-50, instead of two.
    pub bottleneck: bool,
    /// Channels of the first stage: 64 in the paper.
    pub width: usize,
    /// Size of the first convolution: 7 in the paper.
    pub stem_kernel: usize,
    /// Stride of the first convolution: 2 in the paper.
    pub stem_stride: usize,
    /// Whether a 3x3 maximum of stride 2 follows, as in the paper.
    pub stem_pool: bool,
}

impl ResNetConfig {
    /// `resnet18`, `resnet34` or `resnet50`, the first stage `width` channels wide.
    ///
    /// # Errors
    /// Another name.
    pub fn named(name: &str, width: usize) -> Result<Self> {
        let (layers, bottleneck) = match name {
            "resnet18" => ([2, 2, 2, 2], false),
            "resnet34" => ([3, 4, 6, 3], false),
            "resnet50" => ([3, 4, 6, 3], true),
            _ => bail!(
                "no architecture {name}: there are resnet18, resnet34, resnet50, mnist_cnn, wide_resnet"
            ),
        };
        Ok(ResNetConfig { layers, bottleneck, width, stem_kernel: 7, stem_stride: 2, stem_pool: true })
    }

    /// From a config.json with `layers`, `bottleneck`, and optionally `width` and the three of the stem.
    ///
    /// # Errors
    /// Values of the wrong kind.
    pub fn from_config(config: &Config) -> Result<Self> {
        let layers = config.usizes("layers", &[])?;
        let fits = layers.iter().all(|&n| n <= 256);
        let Some(layers) = layers.as_slice().try_into().ok().filter(|_| fits) else {
            return Err(config.unsupported("layers", layers));
        };
        Ok(ResNetConfig {
            layers,
            bottleneck: config.bool("bottleneck", None)?,
            width: config.usize("width", 64)?,
            stem_kernel: config.usize("stem_kernel", 7)?,
            stem_stride: config.usize("stem_stride", 2)?,
            stem_pool: config.bool("stem_pool", true)?,
        })
    }

    /// Length of the feature vector.
    pub fn features(&self) -> usize {
        8 * self.width * self.expansion()
    }

    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }
}

/// A ResNet in one of its passes.
#[derive(Clone, Copy, Debug)]
pub struct ResNet {
    /// Its sizes.
    pub config: ResNetConfig,
    /// What its normalisation does.
    pub norm: NormMode,
    /// Whether the backward pass recomputes what is inside a block instead of keeping it.
    pub recompute: bool,
}

impl ResNet {
    /// Images (N, H, W, 3), or with a fourth channel of zeros -> features (N, [`ResNetConfig::features`]).
    pub fn features(self, w: &Weights, images: Tensor) -> Tensor {
        let (g, config) = (w.graph(), self.config);
        let mut x = g.relu(self.stem(w, images));
        if config.stem_pool {
            x = g.max_pool2d(x, 3, 2, 1);
        }
        for (stage, &blocks) in config.layers.iter().enumerate() {
            for i in 0..blocks {
                let name = format!("layer{}.{i}", stage + 1);
                let _scope = g.scope(&name);
                let (width, stride) = (config.width << stage, if i == 0 && stage > 0 { 2 } else { 1 });
                let w = w.sub(&name).keep();
                let block = move |g: &Graph, x| self.block(&w(g), x, width, stride);
                x = if self.recompute { g.recompute(x, block) } else { block(g, x) };
            }
        }
        let mean = g.mean(x, &[1, 2]);
        g.reshape(mean, &[x.dim(0), x.last()])
    }

    fn stem(self, w: &Weights, images: Tensor) -> Tensor {
        let ResNetConfig { width, stem_kernel, stem_stride, .. } = self.config;
        let _scope = w.graph().scope("conv1");
        let conv = Conv::strided(stem_kernel, stem_stride);
        let kernel = image_kernel(&w.sub("conv1"), images, width, conv);
        nn::batch_norm(&w.sub("bn1"), w.graph().conv2d(images, kernel, conv), self.norm, KEEP)
    }

    fn block(self, w: &Weights, x: Tensor, width: usize, stride: usize) -> Tensor {
        let (g, out) = (w.graph(), width * self.config.expansion());
        let shortcut = match stride != 1 || x.last() != out {
            true => self.conv_norm(w, ["downsample.0", "downsample.1"], x, out, Conv::strided(1, stride)),
            false => x,
        };
        let y = if self.config.bottleneck {
            let y = g.relu(self.conv_norm(w, ["conv1", "bn1"], x, width, Conv::same(1)));
            let y = g.relu(self.conv_norm(w, ["conv2", "bn2"], y, width, Conv::strided(3, stride)));
            self.conv_norm(w, ["conv3", "bn3"], y, out, Conv::same(1))
        } else {
            let y = g.relu(self.conv_norm(w, ["conv1", "bn1"], x, width, Conv::strided(3, stride)));
            self.conv_norm(w, ["conv2", "bn2"], y, width, Conv::same(3))
        };
        g.relu(g.add(y, shortcut))
    }

    fn conv_norm(self, w: &Weights, names: [&str; 2], x: Tensor, out: usize, conv: Conv) -> Tensor {
        let _scope = w.graph().scope(names[0]);
        let y = nn::conv2d_no_bias(&w.sub(names[0]), x, out, conv);
        nn::batch_norm(&w.sub(names[1]), y, self.norm, KEEP)
    }
}

/// Features (N, F) -> logits (N, classes).
pub fn classifier(w: &Weights, features: Tensor, classes: usize) -> Tensor {
    let _scope = w.graph().scope("fc");
    nn::linear(&w.sub("fc"), features, classes)
}

/// The kernel of a first convolution: images have three channels, or a fourth of zeros, which spares the convolution (it reads four
/// at a time) a copy of them. The parameter has three.
pub fn image_kernel(w: &Weights, images: Tensor, out: usize, conv: Conv) -> Tensor {
    let [height, width] = conv.kernel;
    let kernel = w.get("weight", &[out, 3, height, width]);
    match images.last() - 3 {
        0 => kernel,
        more => w.graph().pad(kernel, &[(0, 0), (0, 0), (0, 0), (0, more)]),
    }
}

/// Whether the optimizer moves this tensor of a model; running statistics follow the data.
pub fn is_parameter(name: &str) -> bool {
    !name.ends_with("running_mean") && !name.ends_with("running_var")
}

/// Torchvision's random initial values of the convolution or normalisation tensor `name`, of torch's shape `shape`.
pub fn initial(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let (n, key) = (shape.iter().product::<usize>() as u32, Key::new(seed, 0, name));
    match *shape {
        // Kaiming's normal over the fan-out.
        [out, _, h, w] => {
            let std = (2.0 / (out * h * w) as f32).sqrt();
            (0..n).map(|i| std * key.normal(i)).collect()
        }
        _ if name.ends_with("weight") || name.ends_with("running_var") => vec![1.0; n as usize],
        _ => vec![0.0; n as usize],
    }
}
