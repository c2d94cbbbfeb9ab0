//! UNet2DConditionModel: the noise predictor of Stable Diffusion 1.x and 2.x (Rombach et al. 2022), in every form that its
//! config.json can ask for with residual and cross-attention blocks. Names are diffusers'.

use super::blocks::Blocks;
use crate::core::{Tensor, Weights};
use crate::data::config::Config;
use crate::nn;
use crate::ops::{Act, Attention, Conv, Epilogue};
use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The eps of the norm in front of a transformer; the blocks inside have layer norms with torch's default.
const TRANSFORMER_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;
/// Most levels, and most blocks of a kind in one.
const MOST: usize = 16;

/// Keys of networks that are not implemented, with the values, in JSON, that ask for none of them.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("class_embed_type", "[null]"),
    ("num_class_embeds", "[null]"),
    ("addition_embed_type", "[null]"),
    ("encoder_hid_dim", "[null]"),
    ("encoder_hid_dim_type", "[null]"),
    ("num_attention_heads", "[null]"),
    ("cross_attention_norm", "[null]"),
    ("time_embedding_act_fn", "[null]"),
    ("timestep_post_act", "[null]"),
    ("reverse_transformer_layers_per_block", "[null]"),
    ("dual_cross_attention", "[false, null]"),
    ("resnet_skip_time_act", "[false, null]"),
    ("class_embeddings_concat", "[false, null]"),
    ("mid_block_only_cross_attention", "[false, null]"),
    ("resnet_time_scale_shift", r#"["default"]"#),
    ("time_embedding_type", r#"["positional"]"#),
    ("attention_type", r#"["default"]"#),
    ("mid_block_scale_factor", "[1]"),
    ("resnet_out_scale_factor", "[1]"),
];

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
    blocks: Blocks,
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
        for (key, values) in NOT_SUPPORTED {
            c.only(key, &serde_json::from_str::<Vec<Value>>(values)?)?;
        }
        if c.get("only_cross_attention").is_some_and(|v| !all_false(v)) {
            c.only("only_cross_attention", &[json!(false)])?;
        }
        let levels = levels(c)?;
        let contexts = per_level(c, "cross_attention_dim", levels.len(), 1280, 1 << 16)?;
        if contexts.iter().any(|d| *d != contexts[0]) {
            return Err(c.unsupported("cross_attention_dim", json!(contexts)));
        }
        let mid = match c.str("mid_block_type", "UNetMidBlock2DCrossAttn")?.as_str() {
            _ if c.is_null("mid_block_type") => Mid::None,
            "UNetMidBlock2D" => Mid::Resnet,
            "UNetMidBlock2DCrossAttn" => Mid::CrossAttention,
            other => return Err(c.unsupported("mid_block_type", other)),
        };
        let blocks = Blocks::new(c, c.positive("norm_eps", 1e-5)?)?;
        check_widths(c, &levels, mid, blocks.groups)?;
        let padding = c.u32("downsample_padding", 1)? as usize;
        if padding > 1 {
            return Err(c.unsupported("downsample_padding", padding));
        }
        let odd = |key: &str| match c.usize(key, 3)? {
            k if k % 2 == 1 => Ok(k),
            k => Err(c.unsupported(key, k)),
        };
        let guidance = "time_cond_proj_dim";
        Ok(UnetConfig {
            in_channels: c.usize("in_channels", 4)?,
            out_channels: c.usize("out_channels", 4)?,
            sample_size: sample_size(c)?,
            cross_attention_dim: contexts[0],
            time_cond_proj_dim: c.get(guidance).map(|_| c.usize(guidance, None)).transpose()?,
            mid,
            blocks,
            linear_projection: c.bool("use_linear_projection", false)?,
            downsample_padding: padding,
            flip_sin_to_cos: c.bool("flip_sin_to_cos", true)?,
            freq_shift: c.f32("freq_shift", 0.0)?,
            time_embed_dim: c.usize("time_embedding_dim", 4 * levels[0].channels)?,
            conv_in_kernel: odd("conv_in_kernel")?,
            conv_out_kernel: odd("conv_out_kernel")?,
            center_input_sample: c.bool("center_input_sample", false)?,
            levels,
        })
    }

    /// Width of [`UnetConfig::timestep_embedding`].
    pub fn timestep_width(&self) -> usize {
        self.levels[0].channels
    }

    /// The sinusoids of timesteps (Vaswani et al. 2017), (len, C0), which [`unet`] takes as `time`.
    pub fn timestep_embedding(&self, timesteps: &[f32]) -> Vec<f32> {
        let one = |&t: &f32| {
            let [sin, cos] = sinusoids(t, self.timestep_width(), self.freq_shift);
            if self.flip_sin_to_cos { [cos, sin].concat() } else { [sin, cos].concat() }
        };
        timesteps.iter().flat_map(one).collect()
    }

    /// How distilled models are told the guidance scale (Meng et al. 2023), (1, `time_cond_proj_dim`).
    pub fn guidance_embedding(&self, guidance: f32) -> Vec<f32> {
        let width = self.time_cond_proj_dim.unwrap_or(0);
        let mut out = sinusoids((guidance - 1.0) * 1000.0, width, 1.0).concat();
        out.resize(width, 0.0);
        out
    }
}

/// Sines and cosines of t times width / 2 frequencies from 1 down to 1/10000; in f64, since t is up to a thousand.
fn sinusoids(t: f32, width: usize, shift: f32) -> [Vec<f32>; 2] {
    let half = width / 2;
    let angle = |i: usize| {
        let exponent = i as f32 / (half as f32 - shift);
        f64::from(t * (-(10_000f32.ln()) * exponent).exp())
    };
    let of = |f: fn(f64) -> f64| (0..half).map(|i| f(angle(i)) as f32).collect();
    [of(f64::sin), of(f64::cos)]
}

/// What a UNet predicts from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Noisy latents (N, H, W, in_channels). Any H and W.
    pub latents: Tensor,
    /// [`UnetConfig::timestep_embedding`], (N, C0), or (1, C0) for one timestep of the whole batch, which is faster.
    pub time: Tensor,
    /// [`UnetConfig::guidance_embedding`], for models that have one.
    pub guidance: Option<Tensor>,
    /// What the transformers attend to, (N, T, cross_attention_dim).
    pub context: Tensor,
}

/// Predicts noise (or velocity), (N, H, W, out_channels).
#[track_caller]
pub fn unet(w: &Weights, cfg: &UnetConfig, inputs: Inputs) -> Tensor {
    let Inputs { latents: x, time, guidance, context } = inputs;
    let (g, n) = (w.graph(), x.dim(0));
    assert!(
        x.rank() == 4 && x.dim(3) == cfg.in_channels && [1, n].contains(&time.dim(0)),
        "unet of {x:?} and timesteps {time:?}: (N, H, W, {}) and (N or 1, C0)",
        cfg.in_channels
    );
    assert_eq!([context.dim(0), context.last()], [n, cfg.cross_attention_dim], "context of the unet");
    let time = time_embedding(&w.sub("time_embedding"), cfg, time, guidance);
    let net = Net { cfg, time, context };

    let x = if cfg.center_input_sample { g.add_scalar(g.scale(x, 2.0), -1.0) } else { x };
    let conv_in = |x| {
        let _scope = g.scope("conv_in");
        nn::conv2d(&w.sub("conv_in"), x, cfg.levels[0].channels, Conv::same(cfg.conv_in_kernel))
    };
    let mut skips = vec![conv_in(x)];
    net.down(w, &mut skips);
    let h = net.mid(&w.sub("mid_block"), skips[skips.len() - 1]);
    let h = net.up(w, h, skips);
    let _scope = g.scope("conv_out");
    let h = cfg.blocks.norm(&w.sub("conv_norm_out"), h);
    nn::conv2d(&w.sub("conv_out"), h, cfg.out_channels, Conv::same(cfg.conv_out_kernel))
}

/// The embedding of the timestep, after the activation that every residual block begins with: (N or 1, C).
fn time_embedding(w: &Weights, cfg: &UnetConfig, time: Tensor, guidance: Option<Tensor>) -> Tensor {
    let _scope = w.graph().scope("time_embedding");
    let time = match guidance {
        Some(e) => w.graph().add(time, nn::linear_no_bias(&w.sub("cond_proj"), e, time.last())),
        None => time,
    };
    let act = Epilogue::act(cfg.blocks.act);
    let h = nn::linear_with(&w.sub("linear_1"), time, cfg.time_embed_dim, act);
    nn::linear_with(&w.sub("linear_2"), h, cfg.time_embed_dim, act)
}

/// What all blocks see.
struct Net<'a> {
    cfg: &'a UnetConfig,
    time: Tensor,
    context: Tensor,
}

impl Net<'_> {
    /// The way down from `skips[0]`: appends every tensor that the way up concatenates.
    fn down(&self, w: &Weights, skips: &mut Vec<Tensor>) {
        let mut h = skips[0];
        for (i, level) in self.cfg.levels.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            let (w, _scope) = (w.sub(&name), w.graph().scope(&name));
            for j in 0..level.layers {
                h = self.resnet(&w.sub(format!("resnets.{j}")), h, level.channels);
                if level.down {
                    h = self.transformer(&w.sub(format!("attentions.{j}")), h, level);
                }
                skips.push(h);
            }
            if i + 1 < self.cfg.levels.len() {
                let conv = match self.cfg.downsample_padding {
                    0 => Conv::strided(3, 2).padded([0, 1, 0, 1]),
                    _ => Conv::strided(3, 2),
                };
                h = nn::conv2d(&w.sub("downsamplers.0.conv"), h, level.channels, conv);
                skips.push(h);
            }
        }
    }

    /// The middle, at the smallest size.
    fn mid(&self, w: &Weights, h: Tensor) -> Tensor {
        let level = &self.cfg.levels[self.cfg.levels.len() - 1];
        let _scope = w.graph().scope("mid_block");
        let resnet = |name: &str, h| self.resnet(&w.sub(name), h, level.channels);
        match self.cfg.mid {
            Mid::None => h,
            Mid::Resnet => resnet("resnets.0", h),
            Mid::CrossAttention => {
                let h = self.transformer(&w.sub("attentions.0"), resnet("resnets.0", h), level);
                resnet("resnets.1", h)
            }
        }
    }

    /// The way up, with what was put aside on the way down.
    fn up(&self, w: &Weights, mut h: Tensor, mut skips: Vec<Tensor>) -> Tensor {
        let g = w.graph();
        for (i, level) in self.cfg.levels.iter().rev().enumerate() {
            let name = format!("up_blocks.{i}");
            let (w, _scope) = (w.sub(&name), g.scope(&name));
            for j in 0..=level.layers {
                let skip = skips.pop().expect("as many on the way up as down");
                h = self.resnet(&w.sub(format!("resnets.{j}")), g.concat(&[h, skip], 3), level.channels);
                if level.up {
                    h = self.transformer(&w.sub(format!("attentions.{j}")), h, level);
                }
            }
            // To the size of the next skip, which is not twice as large where a size was odd on the way down.
            if let Some(skip) = skips.last() {
                h = g.upsample_nearest(h, skip.dim(1), skip.dim(2));
                h = nn::conv2d(&w.sub("upsamplers.0.conv"), h, level.channels, Conv::same(3));
            }
        }
        h
    }

    fn resnet(&self, w: &Weights, x: Tensor, out: usize) -> Tensor {
        self.cfg.blocks.resnet(w, x, Some(self.time), out)
    }

    /// Transformer2DModel over the pixels: (N, H, W, C) -> (N, H, W, C).
    fn transformer(&self, w: &Weights, x: Tensor, level: &Level) -> Tensor {
        let (g, c) = (w.graph(), level.channels);
        let project = |name: &str, h: Tensor, epilogue: Epilogue| match self.cfg.linear_projection {
            true => nn::linear_with(&w.sub(name), h, c, epilogue),
            false => nn::conv2d(&w.sub(name), h, c, Conv { epilogue, ..Conv::same(1) }),
        };
        let h = nn::group_norm(&w.sub("norm"), x, self.cfg.blocks.groups, TRANSFORMER_EPS, Act::None);
        let h = project("proj_in", h, Epilogue::default());
        let mut h = g.reshape(h, &[x.dim(0), x.dim(1) * x.dim(2), c]);
        for i in 0..level.depth {
            h = self.transformer_block(&w.sub(format!("transformer_blocks.{i}")), h, level.heads);
        }
        project("proj_out", g.reshape(h, x.shape()), Epilogue::plus(x))
    }

    /// BasicTransformerBlock: attention among the pixels, attention to the context, a gated feed-forward layer.
    fn transformer_block(&self, w: &Weights, x: Tensor, heads: usize) -> Tensor {
        let norm = |name: &str, x| nn::layer_norm(&w.sub(name), x, LAYER_NORM_EPS);
        let h = norm("norm1", x);
        let x = attention(&w.sub("attn1"), h, h, heads, x);
        let x = attention(&w.sub("attn2"), norm("norm2", x), self.context, heads, x);
        let h = nn::linear(&w.sub("ff.net.0.proj"), norm("norm3", x), 8 * x.last());
        nn::linear_with(&w.sub("ff.net.2"), w.graph().geglu(h), x.last(), Epilogue::plus(x))
    }
}

/// x (B, T, C) looks at `context` (B, Tk, Ck); plus `residual`.
fn attention(w: &Weights, x: Tensor, context: Tensor, heads: usize, residual: Tensor) -> Tensor {
    let (g, c) = (w.graph(), x.last());
    let split = |name: &str, x: Tensor| {
        let y = nn::linear_no_bias(&w.sub(name), x, c);
        g.reshape(y, &[x.dim(0), x.dim(1), heads, c / heads])
    };
    let (q, k, v) = (split("to_q", x), split("to_k", context), split("to_v", context));
    let y = g.reshape(g.attention(q, k, v, Attention::default()), x.shape());
    nn::linear_with(&w.sub("to_out.0"), y, c, Epilogue::plus(residual))
}

/// The levels, from the largest image to the smallest.
fn levels(c: &Config) -> Result<Vec<Level>> {
    let channels = c.usizes("block_out_channels", &[320, 640, 1280, 1280])?;
    let n = channels.len();
    if n > MOST {
        bail!("{}: block_out_channels has {n} levels, more than {MOST}", c.name());
    }
    if channels[0] % 2 != 0 {
        bail!("{}: block_out_channels begins with {}, which must be even", c.name(), channels[0]);
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
    let level = |i: usize| Level {
        channels: channels[i],
        layers: layers[i],
        heads: heads[i],
        depth: depth[i],
        down: down[i],
        up: up[n - 1 - i],
    };
    Ok((0..n).map(level).collect())
}

/// Fails where groups or heads do not divide the channels that they share.
fn check_widths(c: &Config, levels: &[Level], mid: Mid, groups: usize) -> Result<()> {
    for (i, level) in levels.iter().enumerate() {
        let width = level.channels;
        let attends = level.down || level.up || (i + 1 == levels.len() && mid != Mid::None);
        if width % groups != 0 {
            bail!("{}: norm_num_groups = {groups} does not divide {width} channels", c.name());
        }
        if attends && width % level.heads != 0 {
            bail!("{}: attention_head_dim = {} does not divide {width} channels", c.name(), level.heads);
        }
    }
    Ok(())
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
