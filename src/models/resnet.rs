//! ResNet (He et al., "Deep residual learning for image recognition", 2015) in torchvision's names and topology: the stride of
//! a bottleneck sits on its 3x3 convolution ("v1.5"). Images are (N, H, W, C).

use super::config::Config;
use crate::core::{DType, Graph, Plan, Store, Tensor, Weights};
use crate::data::nhwc_to_nchw;
use crate::data::rng::Key;
use crate::nn;
use crate::ops::{Adam, Conv, Sgd};
use crate::verify::golden::{Comparison, Golden, TRAINING};
use anyhow::{Context, Result, bail};

/// Batch normalisation's epsilon, torch's default.
const EPS: f32 = 1e-5;
/// The share that the running statistics keep in a step: one less torch's default momentum.
pub const KEEP: f32 = 0.9;

/// Sizes of a ResNet.
#[derive(Clone, Debug, PartialEq)]
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

/// What batch normalisation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNorm {
    /// Running statistics, which stay as they are: torch's evaluation mode, and DomainBed's training.
    Frozen,
    /// Statistics of each of so many equal parts of the batch, as if they came one after the other, which also move the running ones:
    /// torch's training mode.
    Live(usize),
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

/// Images x (N, H, W, 3) -> features (N, [`ResNetConfig::features`]). A fourth channel, of zeros, spares a copy of the images:
/// convolutions read four at a time. With `recompute`, what is inside a block is not kept for the backward pass but made again.
pub fn features(
    g: &Graph,
    w: &Weights,
    config: &ResNetConfig,
    x: Tensor,
    mode: BatchNorm,
    recompute: bool,
) -> Tensor {
    let stem = Conv::strided(config.stem_stride, config.stem_kernel / 2);
    let mut x = conv_norm(g, w, ["conv1", "bn1"], x, config.width, config.stem_kernel, stem, mode);
    x = g.relu(x);
    if config.stem_pool {
        x = g.max_pool2d(x, 3, 2, 1);
    }
    for (stage, &blocks) in config.layers.iter().enumerate() {
        for i in 0..blocks {
            let name = format!("layer{}.{i}", stage + 1);
            let _scope = g.scope(&name);
            let stride = if i == 0 && stage > 0 { 2 } else { 1 };
            let (again, config, width) = (w.sub(&name).keep(), config.clone(), config.width << stage);
            let made = move |g: &Graph, x| block(g, &again(g), &config, x, width, stride, mode);
            x = if recompute { g.recompute(x, made) } else { made(g, x) };
        }
    }
    let mean = g.mean(x, &[1, 2]);
    g.reshape(mean, &[x.dim(0), x.last()])
}

/// Features (N, F) -> logits (N, classes).
pub fn classifier(g: &Graph, w: &Weights, features: Tensor, classes: usize) -> Tensor {
    let _scope = g.scope("fc");
    nn::linear(g, &w.sub("fc"), features, classes, true)
}

fn block(
    g: &Graph,
    w: &Weights,
    config: &ResNetConfig,
    x: Tensor,
    width: usize,
    stride: usize,
    mode: BatchNorm,
) -> Tensor {
    let out = width * config.expansion();
    let shortcut = match stride != 1 || x.last() != out {
        true => {
            let names = ["downsample.0", "downsample.1"];
            conv_norm(g, w, names, x, out, 1, Conv::strided(stride, 0), mode)
        }
        false => x,
    };
    let y = if config.bottleneck {
        let y = g.relu(conv_norm(g, w, ["conv1", "bn1"], x, width, 1, Conv::same(1), mode));
        let y = g.relu(conv_norm(g, w, ["conv2", "bn2"], y, width, 3, Conv::strided(stride, 1), mode));
        conv_norm(g, w, ["conv3", "bn3"], y, out, 1, Conv::same(1), mode)
    } else {
        let y = g.relu(conv_norm(g, w, ["conv1", "bn1"], x, width, 3, Conv::strided(stride, 1), mode));
        conv_norm(g, w, ["conv2", "bn2"], y, width, 3, Conv::same(3), mode)
    };
    g.relu(g.add(y, shortcut))
}

#[allow(clippy::too_many_arguments)]
fn conv_norm(
    g: &Graph,
    w: &Weights,
    [conv_name, norm_name]: [&str; 2],
    x: Tensor,
    out: usize,
    kernel: usize,
    conv: Conv,
    mode: BatchNorm,
) -> Tensor {
    let _scope = g.scope(conv_name);
    let x = match (conv_name, x.last()) {
        ("conv1", 4) => {
            let weight = w.sub(conv_name).get("weight", &[out, 3, kernel, kernel]);
            g.conv2d(x, for_images(g, weight), conv)
        }
        _ => nn::conv2d(g, &w.sub(conv_name), x, out, kernel, conv, false),
    };
    norm(g, &w.sub(norm_name), x, mode, KEEP)
}

/// The weight of a convolution over three channels for images with a fourth.
pub fn for_images(g: &Graph, weight: Tensor) -> Tensor {
    g.pad(weight, &[(0, 0), (0, 0), (0, 0), (0, 1)])
}

/// Torch's `nn.BatchNorm1d` and `2d` in training, of x (.., C): normalises by the batch and updates the running statistics.
pub fn batch_norm(g: &Graph, w: &Weights, x: Tensor) -> Tensor {
    norm(g, w, x, BatchNorm::Live(1), KEEP)
}

/// Torch's batch normalisation with a momentum of 1 - `keep`, the share that the running statistics keep in a step.
pub fn norm(g: &Graph, w: &Weights, x: Tensor, mode: BatchNorm, keep: f32) -> Tensor {
    let [weight, bias, mean, var] =
        ["weight", "bias", "running_mean", "running_var"].map(|n| w.get(n, &[x.last()]));
    let BatchNorm::Live(parts) = mode else {
        return g.batch_norm_frozen(x, mean, var, weight, bias, EPS);
    };
    let batch = g.batch_norm(x, weight, bias, EPS, parts);
    let n = (x.len() / x.last() / parts) as f32;
    // One update that does what one for each part after the other does.
    let after = |i: usize| keep.powi(i as i32);
    let shares: Vec<f32> =
        (1..=parts).map(|i| after(parts - i) * (1.0 - keep) / (1.0 - after(parts))).collect();
    let kept = g.constant(&[1], &[after(parts)]);
    let joined = |stats: Tensor| match parts {
        1 => g.reshape(stats, &[0]),
        _ => g.reshape(g.matmul(g.constant(&[1, parts], &shares), stats), &[0]),
    };
    g.ema(mean, joined(batch.mean), kept);
    // Torch normalises with the biased variance and averages the unbiased one.
    g.ema(var, g.scale(joined(batch.var), n / (n - 1.0).max(1.0)), kept);
    batch.y
}

/// Whether a tensor of a model is moved by its optimizer, not by its data.
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

/// Trains for a few steps and compares logits, losses, gradients and running statistics with torch's: Adam on frozen batch
/// normalisation, or SGD on live one where the golden holds running statistics.
///
/// # Errors
/// A configuration or tensors that do not fit.
pub fn golden(golden: &Golden) -> Result<Vec<Comparison>> {
    let config = ResNetConfig::from_config(&golden.config)?;
    let classes = golden.config.usize("num_classes", 1000)?;
    let (shape, images) = golden.image("images")?;
    let (labels_shape, labels) = golden.ids::<1>("labels")?;
    let ([steps], losses) = golden.tensor::<1>("losses")?;
    if let Some(label) = labels.iter().find(|&&l| l as usize >= classes) {
        bail!("{}: labels holds {label}, but num_classes = {classes}", golden.tensors.name());
    }
    let live = golden.tensors.contains("running_mean");
    let mode = if live { BatchNorm::Live(1) } else { BatchNorm::Frozen };

    let g = Graph::new(golden.gpu.caps());
    let w = Weights::new(&g, DType::F32);
    let x = g.input("images", &shape, DType::F32);
    let y = g.input("labels", &labels_shape, DType::U32);
    let logits = classifier(&g, &w, features(&g, &w, &config, x, mode, false), classes);
    let loss = g.cross_entropy(logits, y);
    let params: Vec<_> = w.params().into_iter().filter(|(name, _)| is_parameter(name)).collect();
    let tensors: Vec<Tensor> = params.iter().map(|p| p.1).collect();
    let grads = g.backward(loss, &tensors);
    g.output("logits", logits);
    g.output("loss", loss);
    for ((name, _), &grad) in params.iter().zip(&grads) {
        let name = format!("grad.{name}");
        if golden.tensors.contains(&name) {
            g.output(&name, grad);
        }
    }
    let pairs: Vec<(Tensor, Tensor)> = tensors.iter().copied().zip(grads.iter().copied()).collect();
    match mode {
        BatchNorm::Live(_) => {
            g.sgd(&pairs, g.constant(&[1], &[0.01]), Sgd { momentum: 0.9, weight_decay: 1e-4 });
        }
        BatchNorm::Frozen => {
            let step = g.input("step", &[1], DType::F32);
            g.adam(&pairs, g.constant(&[1], &[5e-5]), step, Adam::default());
        }
    }
    let mut store = Store::new(&golden.gpu);
    store.load(&golden.weights()?, &w)?;
    let mut plan = Plan::new(&golden.gpu, g, &store)?;
    plan.write("images", &images)?;
    plan.write_u32("labels", &labels)?;

    let mut out = vec![];
    let mut got = vec![];
    for step in 0..steps {
        if !live {
            plan.write("step", &[(step + 1) as f32])?;
        }
        plan.run()?;
        got.extend(plan.read("loss")?);
        if step == 0 && !live {
            out.push(golden.compare("logits", &plan.read("logits")?)?);
            for ((name, _), grad) in params.iter().zip(&grads) {
                let name = format!("grad.{name}");
                if !golden.tensors.contains(&name) {
                    continue;
                }
                let ([n], want) = golden.tensor::<1>(&name)?;
                let mut values = plan.read(&name)?;
                if let [o, h, w, i] = *grad.shape() {
                    values = nhwc_to_nchw(&values, [o, h, w, i]);
                }
                values.truncate(n);
                out.push(Comparison::new(&name, &values, &want, TRAINING));
            }
        }
    }
    out.push(Comparison::new("losses", &got, &losses, TRAINING));
    if live {
        for name in ["running_mean", "running_var"] {
            let (_, want) = golden.tensor::<1>(name)?;
            let (_, values) = store.read(&format!("bn1.{name}")).context("running statistics")?;
            out.push(Comparison::new(name, &values, &want, TRAINING));
        }
    }
    Ok(out)
}
