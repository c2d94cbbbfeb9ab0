//! UNet2DConditionModel: the noise predictor of Stable Diffusion 1.x and 2.x (Rombach et al. 2022), in every form that its
//! config.json can ask for with residual and cross-attention blocks. Names are diffusers'.

use super::config::Config;
use crate::core::{DType, Graph, Plan, Store, Tensor, Weights};
use crate::nn;
use crate::ops::{Act, Attention, Conv, Epilogue};
use crate::verify::golden::{Comparison, Golden};
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The eps of the norm in front of a transformer; the blocks inside have layer norms with torch's default.
const TRANSFORMER_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;
/// Most levels, and most blocks of a kind in one.
const MOST: usize = 16;

/// What a level of the UNet, or its middle, is made of.
#[derive(Clone, Debug)]
struct Level {
    channels: usize,
    /// Residual blocks on the way down; one more on the way up.
    layers: usize,
    heads: usize,
    /// Transformer blocks behind each residual block that has attention.
    depth: usize,
    /// Attention on the way down.
    down: bool,
    /// Attention on the way up.
    up: bool,
}

/// The middle of the UNet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mid {
    None,
    Resnet,
    CrossAttention,
}

/// A UNet as its config.json describes it.
#[derive(Clone, Debug)]
pub struct UnetConfig {
    /// Channels of the latents that go in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Height and width of the latents it was trained on.
    pub sample_size: Option<[usize; 2]>,
    /// Width of the context.
    pub cross_attention_dim: usize,
    /// Width of the guidance embedding of distilled models ([`UnetConfig::guidance_embedding`]).
    pub time_cond_proj_dim: Option<usize>,
    levels: Vec<Level>,
    mid: Mid,
    groups: usize,
    eps: f32,
    act: Act,
    linear_projection: bool,
    downsample_padding: usize,
    flip_sin_to_cos: bool,
    freq_shift: f32,
    time_embed_dim: usize,
    conv_in_kernel: usize,
    conv_out_kernel: usize,
    center_input_sample: bool,
}

impl UnetConfig {
    /// Reads a config.json.
    ///
    /// # Errors
    /// A key whose value is wrong or asks for something that is not implemented; both are named.
    pub fn new(c: &Config) -> Result<Self> {
        for key in ["class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim"] {
            c.only(key, &[Value::Null])?;
        }
        for key in ["encoder_hid_dim_type", "num_attention_heads", "cross_attention_norm"] {
            c.only(key, &[Value::Null])?;
        }
        for key in ["time_embedding_act_fn", "timestep_post_act"] {
            c.only(key, &[Value::Null])?;
        }
        for key in ["dual_cross_attention", "resnet_skip_time_act", "class_embeddings_concat"] {
            c.only(key, &[json!(false), Value::Null])?;
        }
        c.only("mid_block_only_cross_attention", &[json!(false), Value::Null])?;
        c.only("resnet_time_scale_shift", &[json!("default")])?;
        c.only("time_embedding_type", &[json!("positional")])?;
        c.only("attention_type", &[json!("default")])?;
        c.only("mid_block_scale_factor", &[json!(1)])?;
        c.only("resnet_out_scale_factor", &[json!(1)])?;
        if c.get("only_cross_attention").is_some_and(|v| !all_false(v)) {
            c.only("only_cross_attention", &[json!(false)])?;
        }

        let channels = c.usizes("block_out_channels", &[320, 640, 1280, 1280])?;
        let n = channels.len();
        if n > MOST {
            bail!("{}: block_out_channels has {n} levels, more than {MOST}", c.name());
        }
        let cross = "CrossAttnDownBlock2D";
        let down = c.strs("down_block_types", &[cross, cross, cross, "DownBlock2D"])?;
        let cross = "CrossAttnUpBlock2D";
        let up = c.strs("up_block_types", &["UpBlock2D", cross, cross, cross])?;
        if down.len() != n || up.len() != n {
            let (down, up) = (down.len(), up.len());
            bail!(
                "{}: block_out_channels has {n} levels, down_block_types {down}, up_block_types {up}",
                c.name()
            );
        }
        let attends = |key: &str, plain: &str, types: &[String]| {
            let one = |t: &String| match t.as_str() {
                t if t == plain => Ok(false),
                t if t == format!("CrossAttn{plain}") => Ok(true),
                _ => Err(c.unsupported(key, json!(t))),
            };
            types.iter().map(one).collect::<Result<Vec<bool>>>()
        };
        let down = attends("down_block_types", "DownBlock2D", &down)?;
        let up = attends("up_block_types", "UpBlock2D", &up)?;
        let layers = per_level(c, "layers_per_block", n, 2, MOST)?;
        // Misnamed in diffusers: it counts heads.
        let heads = per_level(c, "attention_head_dim", n, 8, 1 << 16)?;
        let depth = per_level(c, "transformer_layers_per_block", n, 1, MOST)?;
        c.only("reverse_transformer_layers_per_block", &[Value::Null])?;
        let contexts = per_level(c, "cross_attention_dim", n, 1280, 1 << 16)?;
        if contexts.iter().any(|d| *d != contexts[0]) {
            return Err(c.unsupported("cross_attention_dim", json!(contexts)));
        }
        let levels: Vec<Level> = (0..n)
            .map(|i| Level {
                channels: channels[i],
                layers: layers[i],
                heads: heads[i],
                depth: depth[i],
                down: down[i],
                up: up[n - 1 - i],
            })
            .collect();
        let mid = match c.str("mid_block_type", "UNetMidBlock2DCrossAttn")?.as_str() {
            _ if c.is_null("mid_block_type") => Mid::None,
            "UNetMidBlock2D" => Mid::Resnet,
            "UNetMidBlock2DCrossAttn" => Mid::CrossAttention,
            other => return Err(c.unsupported("mid_block_type", other)),
        };
        let groups = c.usize("norm_num_groups", 32)?;
        for (i, level) in levels.iter().enumerate() {
            let (width, attends) =
                (level.channels, level.down || level.up || (i + 1 == n && mid != Mid::None));
            if width % groups != 0 {
                bail!("{}: norm_num_groups = {groups} does not divide {width} channels", c.name());
            }
            if attends && width % level.heads != 0 {
                bail!("{}: attention_head_dim = {} does not divide {width} channels", c.name(), level.heads);
            }
        }
        if channels[0] % 2 != 0 {
            bail!("{}: block_out_channels begins with {}, which must be even", c.name(), channels[0]);
        }
        let padding = c.u32("downsample_padding", 1)? as usize;
        if padding > 1 {
            return Err(c.unsupported("downsample_padding", padding));
        }
        let odd = |key: &str| match c.usize(key, 3)? {
            k if k % 2 == 1 => Ok(k),
            k => Err(c.unsupported(key, k)),
        };
        Ok(UnetConfig {
            in_channels: c.usize("in_channels", 4)?,
            out_channels: c.usize("out_channels", 4)?,
            sample_size: sample_size(c)?,
            cross_attention_dim: contexts[0],
            time_cond_proj_dim: c
                .get("time_cond_proj_dim")
                .map(|_| c.usize("time_cond_proj_dim", None))
                .transpose()?,
            levels,
            mid,
            groups,
            eps: c.positive("norm_eps", 1e-5)?,
            act: activation(c)?,
            linear_projection: c.bool("use_linear_projection", false)?,
            downsample_padding: padding,
            flip_sin_to_cos: c.bool("flip_sin_to_cos", true)?,
            freq_shift: c.f32("freq_shift", 0.0)?,
            time_embed_dim: c.usize("time_embedding_dim", 4 * channels[0])?,
            conv_in_kernel: odd("conv_in_kernel")?,
            conv_out_kernel: odd("conv_out_kernel")?,
            center_input_sample: c.bool("center_input_sample", false)?,
        })
    }

    /// Width of [`UnetConfig::timestep_embedding`].
    pub fn timestep_width(&self) -> usize {
        self.levels[0].channels
    }

    /// The sinusoids of timesteps (Vaswani et al. 2017), (len, C0), which [`unet`] takes.
    pub fn timestep_embedding(&self, timesteps: &[f32]) -> Vec<f32> {
        sinusoids(timesteps, self.timestep_width(), self.freq_shift, self.flip_sin_to_cos)
    }

    /// How distilled models are told the guidance scale (Meng et al. 2023), (1, `time_cond_proj_dim`).
    pub fn guidance_embedding(&self, guidance: f32) -> Vec<f32> {
        sinusoids(&[(guidance - 1.0) * 1000.0], self.time_cond_proj_dim.unwrap_or(0), 1.0, false)
    }
}

/// [sin, cos] of t times frequencies from 1 down to 1/10000, or [cos, sin]; in f64, since t is up to a thousand.
fn sinusoids(ts: &[f32], width: usize, shift: f32, cos_first: bool) -> Vec<f32> {
    let half = width / 2;
    let mut out = Vec::with_capacity(ts.len() * width);
    for &t in ts {
        let angle = |i: usize| {
            let exponent = i as f32 / (half as f32 - shift);
            t * (-(10_000f32.ln()) * exponent).exp()
        };
        let sin = (0..half).map(|i| f64::from(angle(i)).sin() as f32);
        let cos = (0..half).map(|i| f64::from(angle(i)).cos() as f32);
        match cos_first {
            true => out.extend(cos.chain(sin)),
            false => out.extend(sin.chain(cos)),
        }
        out.resize(out.len().next_multiple_of(width), 0.0);
    }
    out
}

/// Predicts noise (or velocity): x (N, H, W, in_channels), `time` = [`UnetConfig::timestep_embedding`] (N, C0), or (1, C0) for
/// one timestep of the whole batch, which is faster; `guidance` = [`UnetConfig::guidance_embedding`] for models that have it;
/// context (N, T, cross_attention_dim) -> (N, H, W, out_channels). Any H and W.
#[track_caller]
pub fn unet(
    g: &Graph,
    w: &Weights,
    cfg: &UnetConfig,
    x: Tensor,
    time: Tensor,
    guidance: Option<Tensor>,
    context: Tensor,
) -> Tensor {
    let n = x.dim(0);
    assert!(
        x.rank() == 4 && x.dim(3) == cfg.in_channels && [1, n].contains(&time.dim(0)),
        "unet of {x:?} and timesteps {time:?}: (N, H, W, {}) and (N or 1, C0)",
        cfg.in_channels
    );
    assert_eq!([context.dim(0), context.last()], [n, cfg.cross_attention_dim], "context of the unet");
    let levels = &cfg.levels;
    let last = levels.len() - 1;
    let time = time_embedding(g, &w.sub("time_embedding"), cfg, time, guidance);
    let net = Net { g, cfg, time, context };

    let x = if cfg.center_input_sample { g.add_scalar(g.scale(x, 2.0), -1.0) } else { x };
    let mut h = {
        let _scope = g.scope("conv_in");
        let k = cfg.conv_in_kernel;
        nn::conv2d(g, &w.sub("conv_in"), x, levels[0].channels, k, Conv::same(k), true)
    };
    let mut skips = vec![h];
    for (i, level) in levels.iter().enumerate() {
        let w = w.sub(format!("down_blocks.{i}"));
        let _scope = g.scope(&format!("down_blocks.{i}"));
        for j in 0..level.layers {
            h = net.resnet(&w.sub(format!("resnets.{j}")), h, level.channels);
            if level.down {
                h = net.transformer(&w.sub(format!("attentions.{j}")), h, level);
            }
            skips.push(h);
        }
        if i < last {
            let conv = match cfg.downsample_padding {
                0 => Conv { padding: [0, 1, 0, 1], ..Conv::strided(2, 0) },
                p => Conv::strided(2, p),
            };
            h = nn::conv2d(g, &w.sub("downsamplers.0.conv"), h, level.channels, 3, conv, true);
            skips.push(h);
        }
    }
    if cfg.mid != Mid::None {
        let w = w.sub("mid_block");
        let _scope = g.scope("mid_block");
        h = net.resnet(&w.sub("resnets.0"), h, levels[last].channels);
        if cfg.mid == Mid::CrossAttention {
            h = net.transformer(&w.sub("attentions.0"), h, &levels[last]);
            h = net.resnet(&w.sub("resnets.1"), h, levels[last].channels);
        }
    }
    for (i, level) in levels.iter().rev().enumerate() {
        let w = w.sub(format!("up_blocks.{i}"));
        let _scope = g.scope(&format!("up_blocks.{i}"));
        for j in 0..=level.layers {
            let skip = skips.pop().expect("as many on the way up as down");
            h = net.resnet(&w.sub(format!("resnets.{j}")), g.concat(&[h, skip], 3), level.channels);
            if level.up {
                h = net.transformer(&w.sub(format!("attentions.{j}")), h, level);
            }
        }
        if i < last {
            // To the size of the next skip, which is not twice as large where a size was odd on the way down.
            let skip = skips.last().expect("as many on the way up as down");
            h = g.upsample_nearest(h, skip.dim(1), skip.dim(2));
            h = nn::conv2d(g, &w.sub("upsamplers.0.conv"), h, level.channels, 3, Conv::same(3), true);
        }
    }
    let _scope = g.scope("conv_out");
    h = nn::group_norm(g, &w.sub("conv_norm_out"), h, cfg.groups, cfg.eps, cfg.act);
    let k = cfg.conv_out_kernel;
    nn::conv2d(g, &w.sub("conv_out"), h, cfg.out_channels, k, Conv::same(k), true)
}

/// The embedding of the timestep, after the activation that every residual block begins with: (N or 1, C).
fn time_embedding(
    g: &Graph,
    w: &Weights,
    cfg: &UnetConfig,
    time: Tensor,
    guidance: Option<Tensor>,
) -> Tensor {
    let _scope = g.scope("time_embedding");
    let time = match guidance {
        Some(e) => g.add(time, g.linear(e, w.get("cond_proj.weight", &[time.last(), e.last()]), None)),
        None => time,
    };
    let act = |act| Epilogue { act, ..Epilogue::default() };
    let h = nn::linear_with(g, &w.sub("linear_1"), time, cfg.time_embed_dim, true, act(cfg.act));
    nn::linear_with(g, &w.sub("linear_2"), h, cfg.time_embed_dim, true, act(cfg.act))
}

/// What all blocks see.
struct Net<'a> {
    g: &'a Graph,
    cfg: &'a UnetConfig,
    time: Tensor,
    context: Tensor,
}

impl Net<'_> {
    /// ResnetBlock2D: (N, H, W, C) -> (N, H, W, out).
    fn resnet(&self, w: &Weights, x: Tensor, out: usize) -> Tensor {
        let (g, cfg) = (self.g, self.cfg);
        let h = nn::group_norm(g, &w.sub("norm1"), x, cfg.groups, cfg.eps, cfg.act);
        let h = if self.time.dim(0) == 1 {
            // One timestep for all: the projection is one more bias of the convolution.
            let weight = w.get("conv1.weight", &[out, x.last(), 3, 3]);
            let bias = g.reshape(w.get("conv1.bias", &[out]), &[1, out]);
            let with_bias = Epilogue { residual: Some(bias), ..Epilogue::default() };
            let bias = nn::linear_with(g, &w.sub("time_emb_proj"), self.time, out, true, with_bias);
            let epilogue = Epilogue { bias: Some(g.reshape(bias, &[out])), ..Epilogue::default() };
            g.conv2d(h, weight, Conv { epilogue, ..Conv::same(3) })
        } else {
            let h = nn::conv2d(g, &w.sub("conv1"), h, out, 3, Conv::same(3), true);
            let time = nn::linear(g, &w.sub("time_emb_proj"), self.time, out, true);
            g.add(h, g.reshape(time, &[x.dim(0), 1, 1, out]))
        };
        let h = nn::group_norm(g, &w.sub("norm2"), h, cfg.groups, cfg.eps, cfg.act);
        let x = match x.last() == out {
            true => x,
            false => nn::conv2d(g, &w.sub("conv_shortcut"), x, out, 1, Conv::same(1), true),
        };
        let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
        nn::conv2d(g, &w.sub("conv2"), h, out, 3, Conv { epilogue, ..Conv::same(3) }, true)
    }

    /// Transformer2DModel over the pixels: (N, H, W, C) -> (N, H, W, C).
    fn transformer(&self, w: &Weights, x: Tensor, level: &Level) -> Tensor {
        let (g, c) = (self.g, level.channels);
        let shape = [x.dim(0), x.dim(1) * x.dim(2), c];
        let project = |name: &str, h: Tensor, residual: Option<Tensor>| {
            let epilogue = Epilogue { residual, ..Epilogue::default() };
            match self.cfg.linear_projection {
                true => nn::linear_with(g, &w.sub(name), h, c, true, epilogue),
                false => nn::conv2d(g, &w.sub(name), h, c, 1, Conv { epilogue, ..Conv::same(1) }, true),
            }
        };
        let h = nn::group_norm(g, &w.sub("norm"), x, self.cfg.groups, TRANSFORMER_EPS, Act::None);
        let mut h = g.reshape(project("proj_in", h, None), &shape);
        for i in 0..level.depth {
            h = self.transformer_block(&w.sub(format!("transformer_blocks.{i}")), h, level.heads);
        }
        project("proj_out", g.reshape(h, x.shape()), Some(x))
    }

    /// BasicTransformerBlock: attention among the pixels, attention to the context, a gated feed-forward layer.
    fn transformer_block(&self, w: &Weights, x: Tensor, heads: usize) -> Tensor {
        let (g, c) = (self.g, x.last());
        let norm = |name: &str, x| nn::layer_norm(g, &w.sub(name), x, LAYER_NORM_EPS);
        let h = norm("norm1", x);
        let x = attention(g, &w.sub("attn1"), h, h, heads, x);
        let x = attention(g, &w.sub("attn2"), norm("norm2", x), self.context, heads, x);
        let h = nn::linear(g, &w.sub("ff.net.0.proj"), norm("norm3", x), 8 * c, true);
        let add = Epilogue { residual: Some(x), ..Epilogue::default() };
        nn::linear_with(g, &w.sub("ff.net.2"), g.geglu(h), c, true, add)
    }
}

/// x (B, T, C) looks at `context` (B, Tk, Ck); plus `residual`.
fn attention(g: &Graph, w: &Weights, x: Tensor, context: Tensor, heads: usize, residual: Tensor) -> Tensor {
    let c = x.last();
    let split = |name: &str, x: Tensor| {
        let y = nn::linear(g, &w.sub(name), x, c, false);
        g.reshape(y, &[x.dim(0), x.dim(1), heads, c / heads])
    };
    let (q, k, v) = (split("to_q", x), split("to_k", context), split("to_v", context));
    let y = g.reshape(g.attention(q, k, v, Attention::default()), x.shape());
    let add = Epilogue { residual: Some(residual), ..Epilogue::default() };
    nn::linear_with(g, &w.sub("to_out.0"), y, c, true, add)
}

/// One number for all levels, or a list; at most `most` each.
fn per_level(c: &Config, key: &str, levels: usize, default: usize, most: usize) -> Result<Vec<usize>> {
    match c.get(key) {
        Some(Value::Array(_)) => {
            let list = c.usizes(key, &[])?;
            if list.len() != levels {
                bail!("{}: {key} = {} must have {levels} entries", c.name(), json!(list));
            }
            if list.iter().any(|&n| n > most) {
                bail!("{}: {key} = {} must be at most {most} each", c.name(), json!(list));
            }
            Ok(list)
        }
        _ => Ok(vec![c.count(key, default, most)?; levels]),
    }
}

fn all_false(v: &Value) -> bool {
    match v {
        Value::Array(list) => list.iter().all(|v| *v == json!(false)),
        v => *v == json!(false),
    }
}

/// One number, or height and width.
fn sample_size(c: &Config) -> Result<Option<[usize; 2]>> {
    match c.get("sample_size") {
        None => Ok(None),
        Some(Value::Array(_)) => match c.usizes("sample_size", &[])?[..] {
            [h, w] => Ok(Some([h, w])),
            ref other => Err(c.unsupported("sample_size", json!(other))),
        },
        Some(_) => c.usize("sample_size", None).map(|s| Some([s, s])),
    }
}

/// `act_fn`.
pub(super) fn activation(c: &Config) -> Result<Act> {
    match c.str("act_fn", "silu")?.as_str() {
        "silu" | "swish" => Ok(Act::Silu),
        "gelu" => Ok(Act::Gelu),
        "relu" => Ok(Act::Relu),
        other => Err(c.unsupported("act_fn", other)),
    }
}

/// Compares `out` of a golden: sample, timestep, context -> out.
///
/// # Errors
/// A configuration that is not supported, tensors that are missing, a device that fails.
pub fn golden(golden: &Golden) -> Result<Vec<Comparison>> {
    let cfg = UnetConfig::new(&golden.config)?;
    let (shape, x) = golden.image("sample")?;
    let (context_shape, context) = golden.tensor::<3>("context")?;
    let (_, timestep) = golden.tensor::<1>("timestep")?;

    let g = Graph::new(golden.gpu.caps());
    let w = Weights::new(&g, DType::F32);
    let input = |name: &str, shape: &[usize]| g.input(name, shape, DType::F32);
    let time = input("time", &[timestep.len(), cfg.timestep_width()]);
    let out = unet(&g, &w, &cfg, input("sample", &shape), time, None, input("context", &context_shape));
    g.output("out", out);
    let mut store = Store::new(&golden.gpu);
    store.load(&golden.weights()?, &w)?;
    let mut plan = Plan::new(&golden.gpu, g, &store)?;
    plan.write("sample", &x)?;
    plan.write("context", &context)?;
    plan.write("time", &cfg.timestep_embedding(&timestep))?;
    plan.run()?;
    Ok(vec![golden.compare_image("out", &plan.read("out")?)?])
}
