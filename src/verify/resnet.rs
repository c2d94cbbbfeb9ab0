//! ResNets in training against torchvision's.

use super::golden::{Comparison, Golden, TRAINING};
use crate::core::{DType, Graph, Param, Plan, Store, Tensor, Weights};
use crate::data::nhwc_to_nchw;
use crate::models::resnet::{ResNet, ResNetConfig, classifier, is_parameter};
use crate::nn::NormMode;
use crate::ops::{Adam, Sgd};
use anyhow::{Context, Result, bail};

/// Trains for a few steps and compares logits, losses, gradients and running statistics with torch's: Adam on frozen batch
/// normalisation, or SGD on live one where the golden holds running statistics.
///
/// # Errors
/// A configuration or tensors that do not fit.
pub fn compare(golden: &Golden) -> Result<Vec<Comparison>> {
    let config = ResNetConfig::from_config(&golden.config)?;
    let classes = golden.config.usize("num_classes", 1000)?;
    let (shape, images) = golden.image("images")?;
    let (labels_shape, labels) = golden.ids::<1>("labels")?;
    let ([steps], losses) = golden.tensor::<1>("losses")?;
    if let Some(label) = labels.iter().find(|&&l| l as usize >= classes) {
        bail!("{}: labels holds {label}, but num_classes = {classes}", golden.tensors.name());
    }
    let live = golden.tensors.contains("running_mean");
    let norm = if live { NormMode::Live { groups: 1 } } else { NormMode::Frozen };

    let g = Graph::new(golden.gpu.caps());
    let w = Weights::new(&g, DType::F32);
    let x = g.input("images", &shape, DType::F32);
    let y = g.input("labels", &labels_shape, DType::U32);
    let net = ResNet { config, norm, recompute: false };
    let logits = classifier(&w, net.features(&w, x), classes);
    let loss = g.cross_entropy(logits, y);
    let params: Vec<_> = w.params().into_iter().filter(|p| is_parameter(&p.name)).collect();
    let tensors: Vec<Tensor> = params.iter().map(|p| p.tensor).collect();
    let grads = g.backward(loss, &tensors);
    g.output("logits", logits);
    g.output("loss", loss);
    for (param, &grad) in params.iter().zip(&grads) {
        let name = format!("grad.{}", param.name);
        if golden.tensors.contains(&name) {
            g.output(&name, grad);
        }
    }
    let pairs: Vec<(Tensor, Tensor)> = tensors.iter().copied().zip(grads.iter().copied()).collect();
    match norm {
        NormMode::Live { .. } => {
            g.sgd(&pairs, g.constant(&[1], &[0.01]), Sgd { momentum: 0.9, weight_decay: 1e-4 });
        }
        NormMode::Frozen => {
            let step = g.input("step", &[1], DType::F32);
            g.adam(&pairs, g.constant(&[1], &[5e-5]), step, Adam::default());
        }
    }
    let mut store = Store::new(&golden.gpu);
    store.load(&golden.weights()?, &w.params())?;
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
            for (Param { name, .. }, grad) in params.iter().zip(&grads) {
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
