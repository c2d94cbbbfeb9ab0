//! The table of cases. A public op without a row here fails `tests/tidy.rs`.

use super::{Case, Inputs};
use crate::core::{Class, DType, Init, Kernel, Tensor};
use crate::data::augment::View;
use crate::data::image::Pixels;
use crate::data::packed::pack;
use crate::data::rng::Key;
use crate::ops::{Act, Adam, Attention, Conv, Epilogue, Matmul, Sgd};
use std::rc::Rc;

/// Activations of Stable Diffusion 1.5's widest level at 512 pixels.
const IMAGE: [usize; 4] = [1, 64, 64, 320];
const TOKENS: [usize; 3] = [1, 4096, 320];
/// A layer of ResNet-50, batch 8.
const RESNET: [usize; 4] = [8, 56, 56, 256];
/// A weight of ResNet-50.
const WEIGHT: [usize; 4] = [512, 3, 3, 512];

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    /// A case without gradients.
    fn forward(&mut self, name: &str, record: impl Fn(&Inputs) -> Vec<Tensor> + 'static) {
        self.0.push(Case { name: name.into(), record: Rc::new(record), backward: false });
    }

    /// A case, and one with `_backward` in its name that takes the gradients of all float inputs too.
    fn both(&mut self, name: &str, record: impl Fn(&Inputs) -> Tensor + 'static) {
        self.forward(name, move |r| vec![record(r)]);
        let record = self.0.last().expect("just added").record.clone();
        self.0.push(Case { name: format!("{name}_backward"), record, backward: true });
    }
}

/// All cases.
pub fn all() -> Vec<Case> {
    let mut table = Table::default();
    adapter(&mut table);
    products(&mut table);
    attention(&mut table);
    elementwise(&mut table);
    half(&mut table);
    inference(&mut table);
    shapes(&mut table);
    rows(&mut table);
    norms(&mut table);
    losses(&mut table);
    pools(&mut table);
    random(&mut table);
    pictures(&mut table);
    optimizers(&mut table);
    table.0
}

/// What the adapter can do at best, and what a dispatch costs.
fn adapter(t: &mut Table) {
    let kernel = |entry| Kernel::new("bench", entry).int("R_i", 8);
    t.forward("multiply_add", move |r| {
        let (threads, chains) = (1 << 18, 8);
        let steps = if r.g.caps().class == Class::Software { 64 } else { 4096 };
        let call = r.g.call(kernel("multiply_add")).input(r.f32(&[12])).ints([threads, 0, 0, steps]);
        let call = call.threads(threads, 64).flops((threads * chains * 8 * steps) as f64);
        vec![call.output(&[4 * threads])]
    });
    t.forward("copy", move |r| {
        let n = 1 << 24;
        let call = r.g.call(kernel("copy")).input(r.f32(&[n])).ints([n / 4, 0, 0, 0]);
        vec![call.threads(n / 4, 64).output(&[n])]
    });
    t.forward("replay", |r| {
        let x = r.f32(&[64]);
        vec![(0..1000).fold(x, |x, _| r.g.add_scalar(x, 1.0))]
    });
    t.forward("matmul_1024_naive", move |r| {
        let [m, n, k] = [1024; 3];
        let call = r.g.call(kernel("naive")).input(r.f32(&[m, k])).input(r.f32(&[k, n]));
        let call = call.ints([n, m, k, 0]).threads(m * n, 64).flops(2.0 * (m * n * k) as f64);
        vec![call.output(&[m, n])]
    });
}

fn products(t: &mut Table) {
    t.both("matmul_1024", |r| r.g.matmul(r.f32(&[1024, 1024]), r.f32(&[1024, 1024])));
    t.both("matmul_odd", |r| r.g.matmul(r.f32(&[2, 255, 333]), r.f32(&[2, 333, 129])));
    t.both("matmul_with_transposes", |r| {
        let options = Matmul { transpose_a: true, transpose_b: true, ..Default::default() };
        r.g.matmul_with(r.f32(&[8, 64, 256]), r.f32(&[8, 256, 64]), options)
    });
    t.both("linear_4096x320x320", |r| {
        let bias = r.f32(&[320]);
        r.g.linear(r.f32(&TOKENS), r.f32(&[320, 320]), Some(bias))
    });
    for (name, act) in [
        ("quick_gelu", Act::QuickGelu),
        ("gelu", Act::Gelu),
        ("gelu_tanh", Act::GeluTanh),
        ("silu", Act::Silu),
    ] {
        t.both(&format!("linear_with_{name}"), move |r| {
            let epilogue = Epilogue { bias: Some(r.f32(&[3072])), ..Epilogue::act(act) };
            r.g.linear_with(r.f32(&[1, 77, 768]), r.f32(&[3072, 768]), epilogue)
        });
    }
    t.both("linear_with_residual", |r| {
        let bias = Some(r.f32(&[320]));
        let epilogue = Epilogue { bias, ..Epilogue::plus(r.f32(&TOKENS)) };
        r.g.linear_with(r.f32(&TOKENS), r.f32(&[320, 320]), epilogue)
    });
    t.forward("linear_odd_f16", |r| {
        let w = r.g.state("w", &[129, 333], DType::F16, Init::Zeros);
        let epilogue = Epilogue::plus(r.f32(&[255, 129]));
        vec![r.g.linear_with(r.f32(&[255, 333]), w, epilogue)]
    });
    t.forward("linear_f16", |r| {
        let w = r.g.state("w", &[320, 320], DType::F16, Init::Zeros);
        vec![r.g.linear(r.f32(&TOKENS), w, None)]
    });
    t.both("linear_joined", |r| {
        let (x, skip) = (r.f32(&[1, 1024, 640]), r.f32(&[1, 1024, 320]));
        r.g.linear(r.g.concat(&[x, skip], 2), r.f32(&[640, 960]), None)
    });
    t.forward("linear_joined_f16", |r| {
        let (x, skip) = (r.f32(&[1, 1024, 640]), r.f32(&[1, 1024, 320]));
        let w = r.g.state("w", &[640, 960], DType::F16, Init::Zeros);
        vec![r.g.linear(r.g.concat(&[x, skip], 2), w, None)]
    });
    t.forward("linear_one_token", |r| vec![r.g.linear(r.f32(&[1, 576]), r.f32(&[49152, 576]), None)]);
    t.both("conv3x3_320_64", |r| r.g.conv2d(r.f32(&IMAGE), r.f32(&[320, 3, 3, 320]), Conv::same(3)));
    for (name, wrt) in [("conv_320_64_dx", 0), ("conv_320_64_dw", 1)] {
        t.forward(name, move |r| {
            let inputs = [r.f32(&IMAGE), r.f32(&[320, 3, 3, 320])];
            let y = r.g.conv2d(inputs[0], inputs[1], Conv::same(3));
            r.g.backward(r.g.sum(y, &[0, 1, 2, 3]), &[inputs[wrt]])
        });
    }
    t.both("conv3x3_64_16_b32", |r| {
        r.g.conv2d(r.f32(&[32, 16, 16, 64]), r.f32(&[64, 3, 3, 64]), Conv::same(3))
    });
    t.both("conv2d_1280_8_silu", |r| {
        let epilogue = Epilogue { bias: Some(r.f32(&[1280])), ..Epilogue::act(Act::Silu) };
        r.g.conv2d(r.f32(&[1, 8, 8, 1280]), r.f32(&[1280, 3, 3, 1280]), Conv { epilogue, ..Conv::same(3) })
    });
    t.both("conv2d_resnet_stem", |r| {
        let epilogue = Epilogue { bias: Some(r.f32(&[64])), ..Epilogue::act(Act::Relu) };
        let conv = Conv { epilogue, ..Conv::strided(7, 2) };
        r.g.conv2d(r.f32(&[2, 224, 224, 3]), r.f32(&[64, 7, 7, 3]), conv)
    });
    t.both("conv2d_resnet_1x1", |r| {
        r.g.conv2d(r.f32(&[8, 28, 28, 512]), r.f32(&[128, 1, 1, 512]), Conv::same(1))
    });
    for (name, size) in [("conv2d_f16_32", 32), ("conv2d_f16_64", 64)] {
        t.forward(name, move |r| {
            let w = r.g.state("w", &[320, 3, 3, 320], DType::F16, Init::Zeros);
            vec![r.g.conv2d(r.f32(&[1, size, size, 320]), w, Conv::same(3))]
        });
    }
    t.both("conv2d_doubled", |r| {
        let x = r.g.upsample_nearest(r.f32(&[1, 16, 16, 640]), 32, 32);
        r.g.conv2d(x, r.f32(&[640, 3, 3, 640]), Conv::same(3))
    });
}

/// Stable Diffusion 1.5's levels and its context, CLIP's text model, the VAE, Llama.
fn attention(t: &mut Table) {
    let same = |tokens, heads, d| [tokens, tokens, heads, heads, d];
    for (name, [tq, tk, h, hk, d], causal) in [
        ("attention_8x1024x40", same(1024, 8, 40), false),
        ("attention_8x256x80", same(256, 8, 80), false),
        ("attention_8x64x160", same(64, 8, 160), false),
        ("attention_8x1024x40_context", [1024, 77, 8, 8, 40], false),
        ("attention_clip", same(77, 12, 64), true),
        ("attention_vae", same(1024, 1, 512), false),
        ("attention_llama", [256, 256, 32, 8, 64], true),
    ] {
        t.both(name, move |r| {
            let (q, kv) = ([1, tq, h, d], [1, tk, hk, d]);
            let (q, k, v) = (r.f32(&q), r.f32(&kv), r.f32(&kv));
            r.g.attention(q, k, v, Attention { causal, ..Default::default() })
        });
    }
    t.both("rope_llama", |r| {
        let table = r.g.constant(&[256, 32], &[0.6; 256 * 32]);
        r.g.rope(r.f32(&[1, 256, 32, 64]), table, table)
    });
}

fn elementwise(t: &mut Table) {
    t.both("silu", |r| r.g.silu(r.f32(&IMAGE)));
    t.both("gelu", |r| r.g.gelu(r.f32(&TOKENS)));
    t.both("quick_gelu", |r| r.g.quick_gelu(r.f32(&[1, 77, 3072])));
    t.both("gelu_tanh", |r| r.g.gelu_tanh(r.f32(&[1, 64, 2048])));
    t.both("relu", |r| r.g.relu(r.f32(&RESNET)));
    t.both("sigmoid", |r| r.g.sigmoid(r.f32(&IMAGE)));
    t.both("tanh", |r| r.g.tanh(r.f32(&IMAGE)));
    t.both("exp", |r| r.g.exp(r.f32(&IMAGE)));
    t.both("log", |r| r.g.log(r.f32(&IMAGE)));
    t.both("sqrt", |r| r.g.sqrt(r.f32(&IMAGE)));
    t.both("act", |r| r.g.act(r.f32(&IMAGE), Act::Silu));
    t.both("scale", |r| r.g.scale(r.f32(&IMAGE), 0.18215));
    t.both("add_scalar", |r| r.g.add_scalar(r.f32(&IMAGE), 1.0));
    t.both("add", |r| r.g.add(r.f32(&IMAGE), r.f32(&IMAGE)));
    t.both("add_time_embedding", |r| r.g.add(r.f32(&IMAGE), r.f32(&[1, 1, 1, 320])));
    t.both("sub", |r| r.g.sub(r.f32(&IMAGE), r.f32(&IMAGE)));
    t.both("mul", |r| r.g.mul(r.f32(&IMAGE), r.f32(&IMAGE)));
    t.both("div", |r| r.g.div(r.f32(&IMAGE), r.f32(&IMAGE)));
    t.forward("less", |r| vec![r.g.less(r.f32(&IMAGE), r.f32(&IMAGE))]);
    t.both("expand", |r| r.g.expand(r.f32(&[1, 1, 1, 320]), &IMAGE));
    t.both("geglu", |r| r.g.geglu(r.f32(&[1, 1024, 2 * 2560])));
}

/// What residual networks are made of, in both types of activations.
fn half(t: &mut Table) {
    t.both("to", |r| r.g.to(r.g.to(r.f32(&RESNET), DType::F16), DType::F32));
    for (name, dtype) in [("residual_f32", DType::F32), ("residual_f16", DType::F16)] {
        t.both(name, move |r| {
            let weights = [[64, 7, 7, 4], [128, 1, 1, 64], [128, 3, 3, 128]].map(|s| r.f32(&s));
            let norm = [64, 128].map(|c| r.f32(&[c]));
            r.g.scale_gradients(r.f32(&[4, 112, 112, 4]), |g, x| {
                let stem = g.conv2d(g.to(x, dtype), weights[0], Conv::strided(7, 2));
                let stem = g.relu(g.batch_norm(stem, norm[0], norm[0], 1e-5, 1).y);
                let x = g.conv2d(g.max_pool2d(stem, 3, 2, 1), weights[1], Conv::same(1));
                let y = g.batch_norm(g.conv2d(x, weights[2], Conv::same(3)), norm[1], norm[1], 1e-5, 1).y;
                g.mean(g.relu(g.add(x, y)), &[1, 2])
            })
        });
    }
}

/// A block of a transformer and what moves numbers, on f16 activations, as in inference.
fn inference(t: &mut Table) {
    for (width, tokens, heads) in [(40, 1024, 16), (80, 1024, 8), (160, 256, 4)] {
        let name = &format!("transformer_f16_heads_{width}");
        t.forward(name, move |r| {
            let (g, c) = (r.g, 640);
            let weight = |name: &str, shape: &[usize]| g.state(name, shape, DType::F16, Init::Zeros);
            let (scale, bias) = (r.f32(&[c]), r.f32(&[c]));
            let x = g.to(r.f32(&[1, tokens, c]), DType::F16);
            let h = g.layer_norm(x, Some(scale), Some(bias), 1e-5);
            let qkv = g.linear(h, weight("qkv", &[3 * c, c]), None);
            let [q, k, v] =
                [0, 1, 2].map(|i| g.reshape(g.slice(qkv, 2, i * c, c), &[1, tokens, heads, c / heads]));
            let y = g.reshape(g.attention(q, k, v, Attention::default()), x.shape());
            let epilogue = Epilogue { bias: Some(bias), ..Epilogue::plus(x) };
            let x = g.linear_with(y, weight("out", &[c, c]), epilogue);
            let h = g.geglu(g.linear(g.add_scalar(x, 1.0), weight("up", &[8 * c, c]), None));
            vec![g.linear_with(h, weight("down", &[c, 4 * c]), Epilogue { act: Act::Silu, ..epilogue })]
        });
    }
    t.forward("moved_f16", |r| {
        let [x, skip] = [640, 320].map(|c| r.g.to(r.f32(&[1, 32, 32, c]), DType::F16));
        let all = r.g.concat(&[x, skip], 3);
        vec![r.g.upsample_nearest(all, 40, 64), r.g.permute(r.g.slice(all, 3, 320, 320), &[0, 2, 1, 3])]
    });
}

/// Reductions, and ops that move elements.
fn shapes(t: &mut Table) {
    t.both("sum_pixels", |r| r.g.sum(r.f32(&RESNET), &[1, 2]));
    t.both("sum_all", |r| r.g.sum(r.f32(&IMAGE), &[0, 1, 2, 3]));
    t.both("mean", |r| r.g.mean(r.f32(&TOKENS), &[2]));
    t.both("max", |r| r.g.max(r.f32(&RESNET), &[1, 2]));
    t.forward("argmax", |r| vec![r.g.argmax(r.f32(&[77, 49408]))]);
    t.forward("quantile", |r| vec![r.g.quantile(r.f32(&[96, 2048]), 2.0 / 3.0)]);
    t.both("permute", |r| r.g.permute(r.f32(&[1, 4096, 8, 40]), &[0, 2, 1, 3]));
    t.both("concat", |r| {
        let (x, skip) = (r.f32(&[1, 32, 32, 640]), r.f32(&[1, 32, 32, 320]));
        r.g.concat(&[x, skip], 3)
    });
    t.both("slice", |r| r.g.slice(r.f32(&[1, 4096, 2560]), 2, 1280, 1280));
    t.both("pad", |r| r.g.pad(r.f32(&[1, 64, 64, 128]), &[(0, 0), (0, 1), (0, 1), (0, 0)]));
}

/// Rows by index: CLIP's token table.
fn rows(t: &mut Table) {
    t.both("gather_rows", |r| r.g.gather_rows(r.f32(&[49408, 768]), r.u32(&[8, 77], 49408)));
    t.forward("gather_rows_f16", |r| {
        let table = r.g.state("table", &[49408, 768], DType::F16, Init::Zeros);
        vec![r.g.gather_rows(table, r.u32(&[8, 77], 49408))]
    });
    t.forward("gather_rows_f16_odd", |r| {
        let table = r.g.state("table", &[1000, 333], DType::F16, Init::Zeros);
        vec![r.g.gather_rows(table, r.u32(&[8, 77], 1000))]
    });
    t.forward("write_rows", |r| {
        let cache = r.g.state("cache", &[1, 8, 2048, 64], DType::F32, Init::Zeros);
        vec![r.g.write_rows(cache, r.f32(&[1, 8, 16, 64]), r.u32(&[1], 2032))]
    });
    t.both("scatter_rows", |r| {
        let src = r.f32(&[616, 768]);
        r.g.scatter_rows(src, r.u32(&[616], 4096), 4096)
    });
}

/// The transformers of Stable Diffusion and CLIP, Llama, the blocks of the UNet, ResNet-50.
fn norms(t: &mut Table) {
    t.both("layer_norm", |r| {
        let (weight, bias) = (r.f32(&[320]), r.f32(&[320]));
        r.g.layer_norm(r.f32(&TOKENS), Some(weight), Some(bias), 1e-5)
    });
    t.both("rms_norm", |r| {
        let weight = r.f32(&[2048]);
        r.g.rms_norm(r.f32(&[1, 256, 2048]), weight, 1e-5)
    });
    for (name, act) in [("group_norm", Act::None), ("group_norm_silu", Act::Silu)] {
        t.both(name, move |r| {
            let (weight, bias) = (r.f32(&[320]), r.f32(&[320]));
            r.g.group_norm(r.f32(&IMAGE), 32, weight, bias, 1e-5, act)
        });
    }
    t.both("batch_norm", |r| {
        let (weight, bias) = (r.f32(&[256]), r.f32(&[256]));
        r.g.batch_norm(r.f32(&RESNET), weight, bias, 1e-5, 1).y
    });
    t.both("batch_norm_frozen", |r| {
        let [mean, var] = [r.g.constant(&[256], &[0.5; 256]), r.g.constant(&[256], &[0.1; 256])];
        let (weight, bias) = (r.f32(&[256]), r.f32(&[256]));
        r.g.batch_norm_frozen(r.f32(&RESNET), mean, var, weight, bias, 1e-5)
    });
}

fn losses(t: &mut Table) {
    t.both("softmax", |r| r.g.softmax(r.f32(&[12, 77, 77])));
    t.both("log_softmax", |r| r.g.log_softmax(r.f32(&[77, 49408])));
    t.both("cross_entropy", |r| r.g.cross_entropy(r.f32(&[256, 1000]), r.u32(&[256], 1000)));
    t.both("cross_entropy_rows", |r| r.g.cross_entropy_rows(r.f32(&[256, 1000]), r.u32(&[256], 1000)));
    t.forward("kde_quantile", |r| vec![r.g.kde_quantile(r.f32(&[6]), 0.75)]);
    t.both("mse_loss", |r| r.g.mse_loss(r.f32(&IMAGE), r.f32(&IMAGE)));
}

/// ResNet-50's first pooling, its last, and the UNet's way up.
fn pools(t: &mut Table) {
    t.both("max_pool2d", |r| r.g.max_pool2d(r.f32(&[8, 112, 112, 64]), 3, 2, 1));
    t.both("avg_pool2d", |r| r.g.avg_pool2d(r.f32(&[8, 56, 56, 256]), 2, 2, 0));
    t.both("upsample_nearest", |r| r.g.upsample_nearest(r.f32(&[1, 32, 32, 640]), 64, 64));
}

/// Latents and masks.
fn random(t: &mut Table) {
    t.forward("random_uniform", |r| vec![r.g.random_uniform(r.u32(&[4], u32::MAX), &IMAGE)]);
    t.forward("random_normal", |r| vec![r.g.random_normal(r.u32(&[4], u32::MAX), &IMAGE)]);
    t.both("dropout", |r| r.g.dropout(r.f32(&TOKENS), r.f32(&TOKENS), 0.1));
}

/// A minibatch of photographs of 300 x 250 pixels at ResNet's size.
fn pictures(t: &mut Table) {
    t.forward("augment_8x224", |r| {
        let data: Vec<u8> =
            (0..300 * 250 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let image = Pixels { width: 300, height: 250, data: &data };
        let view = |i| (image, View::random(image, Key::new(0, 0, "augment"), i));
        let words = pack(224, &(0..8).map(view).collect::<Vec<_>>());
        vec![r.g.augment(r.words(&[words.len()], words), 8, 224, [0.5; 3], [0.2; 3])]
    });
}

fn optimizers(t: &mut Table) {
    let weight = |r: &Inputs| r.g.state("weight", &WEIGHT, DType::F32, Init::Zeros);
    t.forward("adam", move |r| {
        let (w, dw, one) = (weight(r), r.f32(&WEIGHT), r.f32(&[1]));
        r.g.adam(&[(w, dw)], one, one, Adam::default())
    });
    t.forward("sgd", move |r| {
        let (w, dw, lr) = (weight(r), r.f32(&WEIGHT), r.f32(&[1]));
        r.g.sgd(&[(w, dw)], lr, Sgd { momentum: 0.9, weight_decay: 1e-4 })
    });
    t.forward("ema", move |r| vec![r.g.ema(weight(r), r.f32(&WEIGHT), r.f32(&[1]))]);
    t.forward("assign", move |r| vec![r.g.assign(weight(r), r.f32(&WEIGHT))]);
    t.forward("clip_grad_norm", |r| {
        let (mut grads, norm) = r.g.clip_grad_norm(&[r.f32(&WEIGHT), r.f32(&[512])], 1.0);
        grads.push(norm);
        grads
    });
}
