//! Stable Diffusion 1 and 2 in one file, under the names of its authors' programs (CompVis' latent-diffusion, Stability's
//! generative-models): what such a file is, the configurations that its shapes tell, its tensors under diffusers' names.
//!
//! Heads and groups are in no shape; they are those of the two families. What a file does not say of its schedule is what diffusers takes
//! for the family (`loaders/single_file_utils.py`).

mod names;

use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Most blocks, layers or levels that are looked for.
const MOST: usize = 256;
/// Where a file has the UNet.
const UNET: [&str; 3] = ["model.diffusion_model.", "unet.", ""];
/// Where it has the autoencoder.
const VAE: [&str; 3] = ["first_stage_model.", "vae.", ""];
/// Where it has a text encoder under Hugging Face's names; some merges lost `text_model.`.
const CLIP: [&str; 10] = [
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.text_model.",
    "conditioner.embedders.0.transformer.",
    "text_encoders.clip_l.transformer.text_model.",
    "te.text_model.",
    "te.",
    "text_encoder.text_model.",
    "text_model.",
    "",
];
/// Where it has one under OpenCLIP's names.
const OPEN_CLIP: [&str; 4] = ["cond_stage_model.model.", "conditioner.embedders.0.model.", "te.model.", ""];

/// Spread of a norm's biases above which a UNet of Stable Diffusion 2 predicts velocity: those that do have larger ones (ComfyUI's test).
const VELOCITY: f64 = 0.09;

/// A part of Stable Diffusion: its configuration, and its tensors under diffusers' names.
pub struct Found {
    /// Its config.json.
    pub config: Config,
    /// Its weights.
    pub weights: Checkpoint,
}

/// What a file is that Stable Diffusion 1 and 2 are not, by names and shapes that tell it (the order of diffusers'
/// `infer_diffusers_model_type`); nothing for files that may be those, or parts of them.
pub fn other_model(file: &Checkpoint) -> Option<&'static str> {
    let has = |name: &str| file.contains(name) || file.contains(&format!("{}{name}", UNET[0]));
    let part = |text: &str| file.names().any(|name| name.contains(text));
    let conv_in = file.shape("model.diffusion_model.input_blocks.0.0.weight");
    let channels = conv_in.or(file.shape("input_blocks.0.0.weight")).and_then(|shape| shape.get(1));
    let context = file.names().find(|name| name.ends_with("attn2.to_k.weight"));
    let width = context.and_then(|name| file.shape(name)?.get(1).copied());
    let found = [
        (
            part(".lora_up.") || part(".lora_B.") || part(".lora.up.") || part("lora_down"),
            "a LoRA: --lora takes it",
        ),
        (part("hada_w1") || part("lokr_w1") || part("dora_scale"), "a LyCORIS adapter: --lora takes it"),
        (part("joint_blocks.0.context_block"), "Stable Diffusion 3"),
        (part("double_blocks.0.img_attn"), "Flux"),
        (part("motion_modules.0."), "a motion module of AnimateDiff"),
        (
            part("control_model.") || part("controlnet_cond_embedding.") || part("input_hint_block."),
            "a ControlNet",
        ),
        (part("conditioner.embedders.1.") || has("label_emb.0.0.weight"), "Stable Diffusion XL"),
        (width == Some(2048) || width == Some(1280), "Stable Diffusion XL"),
        (has("edm_mean"), "Playground 2.5"),
        (has("input_blocks.10.0.skip_connection.bias"), "Stable Diffusion's upscaler"),
        (channels == Some(&9), "a model for inpainting"),
        (channels == Some(&8), "InstructPix2Pix"),
        (channels == Some(&5), "a model that wants a depth map"),
        (part("emb_params") || part("string_to_param"), "a textual inversion: --embedding takes it"),
        (file.contains("conv_first.weight") || file.contains("model.0.weight"), "an upscaler of pixels"),
    ];
    found.into_iter().find(|(is, _)| *is).map(|(_, what)| what)
}

/// The UNet in a file, if it has one.
///
/// # Errors
/// Names that are not all there.
pub fn unet(file: &Checkpoint) -> Result<Option<Found>> {
    let Some(net) = Net::find(file, &UNET, "input_blocks.0.0.weight") else { return Ok(None) };
    let blocks = net.count("input_blocks", ".0");
    // Blocks of a level, the last of which makes the image smaller.
    let each = (1..blocks).find(|i| net.has(&format!("input_blocks.{i}.0.op.weight"))).unwrap_or(blocks);
    let levels = blocks / each;
    let attention = |path: String| net.has(&format!("{path}.transformer_blocks.0.attn2.to_k.weight"));
    let level = |b: usize| net.size(&format!("input_blocks.{}.0.in_layers.2.weight", 1 + b * each), 0);
    let channels = (0..levels).map(level).collect::<Result<Vec<_>>>()?;
    let types = |way: &str, attends: &dyn Fn(usize) -> bool| -> Vec<String> {
        let name = |b| format!("{}{way}Block2D", if attends(b) { "CrossAttn" } else { "" });
        (0..levels).map(name).collect()
    };
    let down = types("Down", &|b| attention(format!("input_blocks.{}.1", 1 + b * each)));
    let up = types("Up", &|b| attention(format!("output_blocks.{}.1", b * each)));
    let mid = match (attention("middle_block.1".into()), net.has("middle_block.0.in_layers.2.weight")) {
        (true, _) => json!("UNetMidBlock2DCrossAttn"),
        (false, true) => json!("UNetMidBlock2D"),
        (false, false) => Value::Null,
    };
    let transformer = net.names().find_map(|name| name.split_once(".transformer_blocks.").map(|(at, _)| at));
    let transformer = transformer.context("no attention to a prompt in its UNet")?.to_string();
    let context = net.size(&format!("{transformer}.transformer_blocks.0.attn2.to_k.weight"), 1)?;
    let linear = net.shape(&format!("{transformer}.proj_in.weight"))?.len() == 2;
    let second = linear || context == 1024;
    let velocity = predicts_velocity(&net, second)?;
    let config = json!({
        "_class_name": "UNet2DConditionModel",
        "in_channels": net.size("input_blocks.0.0.weight", 1)?, "out_channels": net.size("out.2.weight", 0)?,
        "block_out_channels": channels, "layers_per_block": each - 1,
        "down_block_types": down, "up_block_types": up, "mid_block_type": mid,
        "transformer_layers_per_block": net.count(&format!("{transformer}.transformer_blocks"), ".norm1"),
        "cross_attention_dim": context, "use_linear_projection": linear,
        "attention_head_dim": match second {
            true => json!(channels.iter().map(|c| (c / 64).max(1)).collect::<Vec<_>>()),
            false => json!(8),
        },
        "time_cond_proj_dim": net.size("time_embedding.cond_proj.weight", 1).ok(),
        "sample_size": size(file)?.unwrap_or(if velocity && second { 96 } else { 64 }),
        // Read by `scheduler`.
        "prediction_type": if velocity { "v_prediction" } else { "epsilon" },
    });
    let weights = net.renamed(|name| names::unet(name, each));
    Ok(Some(Found { config: described(file, "UNet", &config)?, weights }))
}

/// The configuration of a scheduler for the UNet that [`unet`] found: what diffusers takes for its family.
///
/// # Errors
/// None that [`unet`] did not have.
pub fn scheduler(file: &Checkpoint, unet: &Config) -> Result<Config> {
    let class = match (unet.get("time_cond_proj_dim"), unet.bool("use_linear_projection", false)?) {
        (Some(_), _) => "LCMScheduler",
        (None, true) => "DDIMScheduler",
        (None, false) => "PNDMScheduler",
    };
    let config = json!({
        "_class_name": class, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "clip_sample": false, "timestep_spacing": "leading",
        "prediction_type": unet.str("prediction_type", "epsilon")?,
        "rescale_betas_zero_snr": file.contains("ztsnr"),
    });
    described(file, "scheduler", &config)
}

/// The autoencoder in a file, if it has one: also in one of diffusers' own.
///
/// # Errors
/// Names that are not all there.
pub fn vae(file: &Checkpoint) -> Result<Option<Found>> {
    let Some(net) = Net::find(file, &VAE, "decoder.conv_in.weight") else { return Ok(None) };
    let modern = net.has("decoder.up_blocks.0.resnets.0.conv1.weight");
    let [up, block, attention] = match modern {
        true => ["decoder.up_blocks", "resnets", "decoder.mid_block.attentions.0.group_norm.weight"],
        false => ["decoder.up", "block", "decoder.mid.attn_1.norm.weight"],
    };
    let levels = net.count(up, &format!(".{block}.0.conv1"));
    let level = |i: usize| net.size(&format!("{up}.{i}.{block}.0.conv1.weight"), 0);
    let mut channels = (0..levels).map(level).collect::<Result<Vec<_>>>()?;
    if modern {
        channels.reverse();
    }
    let config = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": channels,
        "layers_per_block": net.count(&format!("{up}.0.{block}"), ".conv1").max(2) - 1,
        "down_block_types": vec!["DownEncoderBlock2D"; levels], "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "in_channels": net.size("decoder.conv_out.weight", 0)?, "out_channels": net.size("decoder.conv_out.weight", 0)?,
        "latent_channels": net.size("decoder.conv_in.weight", 1)?,
        "mid_block_add_attention": net.has(attention),
        "use_quant_conv": net.has("quant_conv.weight"), "use_post_quant_conv": net.has("post_quant_conv.weight"),
    });
    let weights = net.renamed(|name| if modern { Some(name.to_string()) } else { names::vae(name, levels) });
    Ok(Some(Found { config: described(file, "autoencoder", &config)?, weights }))
}

/// The text encoder in a file, if it has one: also in one of Hugging Face's own.
///
/// # Errors
/// Names that are not all there.
pub fn text(file: &Checkpoint) -> Result<Option<Found>> {
    if let Some(net) = Net::find(file, &CLIP, "embeddings.token_embedding.weight") {
        let layers = net.count("encoder.layers", ".layer_norm1");
        let shapes =
            ["embeddings.token_embedding", "embeddings.position_embedding", "encoder.layers.0.mlp.fc1"];
        let config = text_config(&net, shapes, layers)?;
        return Ok(Some(Found { config, weights: net.renamed(|name| Some(name.to_string())) }));
    }
    let Some(net) = Net::find(file, &OPEN_CLIP, "token_embedding.weight") else { return Ok(None) };
    let layers = net.count("transformer.resblocks", ".ln_1");
    let shapes = ["token_embedding", "positional_embedding", "transformer.resblocks.0.mlp.c_fc"];
    let config = text_config(&net, shapes, layers)?;
    let mut weights = net.renamed(|name| Some(name.to_string()));
    for layer in 0..layers {
        for kind in ["weight", "bias"] {
            let whole = format!("transformer.resblocks.{layer}.attn.in_proj_{kind}");
            let part = |name: &str| format!("encoder.layers.{layer}.self_attn.{name}_proj.{kind}");
            weights.split(&whole, &["q", "k", "v"].map(part))?;
        }
    }
    Ok(Some(Found { config, weights: weights.rename(names::open_clip) }))
}

/// What the shapes of a text encoder tell. Stable Diffusion 2 takes what its last layer but one of 24 makes, so that layer is not there
/// for it.
fn text_config(net: &Net, [tokens, positions, fc1]: [&str; 3], layers: usize) -> Result<Config> {
    let weight = |name: &str| if net.has(name) { name.to_string() } else { format!("{name}.weight") };
    let hidden = net.size(&weight(positions), 1)?;
    let second = hidden == 1024 || tokens == "token_embedding";
    let config = json!({
        "architectures": ["CLIPTextModel"], "vocab_size": net.size(&weight(tokens), 0)?, "hidden_size": hidden,
        "max_position_embeddings": net.size(&weight(positions), 0)?, "intermediate_size": net.size(&weight(fc1), 0)?,
        "num_hidden_layers": if second && layers == 24 { 23 } else { layers },
        "num_attention_heads": (hidden / 64).max(1),
        "hidden_act": if second { "gelu" } else { "quick_gelu" },
    });
    described(net.file, "text encoder", &config)
}

/// Whether a UNet predicts velocity: as its file says, else by the spread of biases, which tells the two kinds of Stable Diffusion 2 apart.
fn predicts_velocity(net: &Net, second: bool) -> Result<bool> {
    let file = net.file;
    if let Some(said) = file.metadata().get("modelspec.prediction_type") {
        return Ok(said == "v" || said == "v_prediction");
    }
    let bias = "output_blocks.11.1.transformer_blocks.0.norm1.bias";
    if file.contains("v_pred") || !second || !net.has(bias) {
        return Ok(file.contains("v_pred"));
    }
    let values = file.f32(&format!("{}{bias}", net.prefix), net.shape(bias)?)?;
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        values.sum::<f64>() / net.shape(bias).map_or(1, |s| s[0]) as f64
    };
    let middle = mean(&mut values.iter().map(|&v| v.into()));
    let variance = mean(&mut values.iter().map(|&v| (f64::from(v) - middle).powi(2)));
    Ok(variance.sqrt() > VELOCITY)
}

/// Side of the latents, where the file says which images the model was trained on.
fn size(file: &Checkpoint) -> Result<Option<usize>> {
    let Some(said) = file.metadata().get("modelspec.resolution") else { return Ok(None) };
    let side = said.split_once('x').map_or(said.as_str(), |(side, _)| side).parse::<usize>();
    match side {
        Ok(side) if side >= 8 => Ok(Some(side / 8)),
        _ => bail!("{}: modelspec.resolution = {said:?} is no size", file.name()),
    }
}

/// The path of a layer of `unet`, with `_` for dots, that such a path of the authors' names means.
pub fn flat_unet(flat: &str, unet: &Checkpoint) -> Option<String> {
    let each = 1 + Net { file: unet, prefix: "" }.count("down_blocks.0.resnets", ".conv1");
    names::flat_unet(flat, each)
}

fn described(file: &Checkpoint, part: &str, config: &Value) -> Result<Config> {
    Config::parse(format!("{}: {part}", file.name()), &config.to_string())
}

/// A part of a file, below a prefix.
struct Net<'a> {
    file: &'a Checkpoint,
    prefix: &'a str,
}

impl<'a> Net<'a> {
    /// What lies below the first of `prefixes` that has this tensor.
    fn find(file: &'a Checkpoint, prefixes: &[&'a str], tensor: &str) -> Option<Net<'a>> {
        let prefix = prefixes.iter().find(|prefix| file.contains(&format!("{prefix}{tensor}")))?;
        Some(Net { file, prefix })
    }

    fn has(&self, name: &str) -> bool {
        self.file.contains(&format!("{}{name}", self.prefix))
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        let prefix = self.prefix;
        self.file.names().filter_map(move |name| name.strip_prefix(prefix))
    }

    fn shape(&self, name: &str) -> Result<&'a [usize]> {
        let shape = self.file.shape(&format!("{}{name}", self.prefix));
        shape.with_context(|| format!("{}: no tensor {}{name}", self.file.name(), self.prefix))
    }

    fn size(&self, name: &str, dimension: usize) -> Result<usize> {
        let shape = self.shape(name)?;
        let size = shape.get(dimension).copied();
        size.with_context(|| format!("{}: {}{name} has shape {shape:?}", self.file.name(), self.prefix))
    }

    /// How many things below `path` are numbered, each of which has a tensor `inside`.
    fn count(&self, path: &str, inside: &str) -> usize {
        let numbered = |i: &usize| {
            let start = format!("{path}.{i}{inside}");
            self.names().any(|name| name.strip_prefix(&start).is_some_and(|rest| rest.starts_with('.')))
        };
        (0..MOST).find(|i| !numbered(i)).unwrap_or(MOST)
    }

    /// Its tensors, without the prefix, under other names.
    fn renamed(&self, name: impl Fn(&str) -> Option<String>) -> Checkpoint {
        self.file.clone().rename(|full| name(full.strip_prefix(self.prefix)?))
    }
}
