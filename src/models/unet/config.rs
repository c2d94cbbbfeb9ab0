//! What a UNet's config.json says.

use crate::core::DType;
use crate::data::config::Config;
use crate::models::blocks::Blocks;
use anyhow::{Result, bail};
use serde_json::{Value, json};

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
pub(super) struct Level {
    pub channels: usize,
    /// Residual blocks on the way down; one more on the way up.
    pub layers: usize,
    pub heads: usize,
    /// Transformer blocks behind each residual block that has attention.
    pub depth: usize,
    /// Attention on the way down.
    pub down: bool,
    /// Attention on the way up.
    pub up: bool,
}

/// The middle of the UNet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mid {
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
    pub(super) levels: Vec<Level>,
    pub(super) mid: Mid,
    pub(super) blocks: Blocks,
    pub(super) linear_projection: bool,
    pub(super) downsample_padding: usize,
    flip_sin_to_cos: bool,
    freq_shift: f32,
    pub(super) time_embed_dim: usize,
    pub(super) conv_in_kernel: usize,
    pub(super) conv_out_kernel: usize,
    pub(super) center_input_sample: bool,
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

    /// Paths of the residual blocks and their channels, in order.
    pub(super) fn resnets(&self) -> Vec<(String, usize)> {
        let last = self.levels.len() - 1;
        let down = self.levels.iter().enumerate().flat_map(|(i, level)| {
            (0..level.layers).map(move |j| (format!("down_blocks.{i}.resnets.{j}"), level.channels))
        });
        let in_mid = match self.mid {
            Mid::None => 0,
            Mid::Resnet => 1,
            Mid::CrossAttention => 2,
        };
        let mid = (0..in_mid).map(|j| (format!("mid_block.resnets.{j}"), self.levels[last].channels));
        let up = self.levels.iter().rev().enumerate().flat_map(|(i, level)| {
            (0..=level.layers).map(move |j| (format!("up_blocks.{i}.resnets.{j}"), level.channels))
        });
        down.chain(mid).chain(up).collect()
    }

    /// Paths of the attentions to the context, and the widths of their keys and values together.
    pub fn cross_attentions(&self) -> Vec<(String, usize)> {
        let blocks = |path: String, level: &Level| {
            let c = level.channels;
            (0..level.depth).map(move |t| (format!("{path}.transformer_blocks.{t}.attn2"), 2 * c))
        };
        let mut all = vec![];
        for (i, level) in self.levels.iter().enumerate().filter(|(_, level)| level.down) {
            all.extend(
                (0..level.layers).flat_map(|j| blocks(format!("down_blocks.{i}.attentions.{j}"), level)),
            );
        }
        if self.mid == Mid::CrossAttention {
            all.extend(blocks("mid_block.attentions.0".into(), &self.levels[self.levels.len() - 1]));
        }
        for (i, level) in self.levels.iter().rev().enumerate().filter(|(_, level)| level.up) {
            all.extend(
                (0..=level.layers).flat_map(|j| blocks(format!("up_blocks.{i}.attentions.{j}"), level)),
            );
        }
        all
    }

    /// What activations are kept as, given how matrices are: f16 needs widths that are multiples of four.
    pub fn activations(&self, matrices: DType) -> DType {
        let even = self.levels.iter().all(|level| level.channels % 4 == 0);
        if even && self.cross_attention_dim % 4 == 0 { matrices } else { DType::F32 }
    }

    /// Width of [`UnetConfig::timestep_embedding`].
    pub fn timestep_width(&self) -> usize {
        self.levels[0].channels
    }

    /// The sinusoids of timesteps (Vaswani et al. 2017), (len, C0), which [`unet`](super::unet()) takes as `time`.
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
