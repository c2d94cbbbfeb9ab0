//! Names of the authors' programs, and diffusers' for the same tensors.

/// Parts of a residual block.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
];
/// What stands before and behind the blocks of the UNet.
const OUTER: [(&str, &str); 5] = [
    ("input_blocks.0.0.", "conv_in."),
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
];
/// Parts of the attention in the autoencoder.
const VAE_ATTENTION: [(&str, &str); 5] =
    [("norm.", "group_norm."), ("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")];
/// Parts of a layer of OpenCLIP's text tower.
const OPEN_CLIP: [(&str, &str); 5] = [
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// The first of `table` that a name begins with, in its other form.
fn begun(table: &[(&str, &str)], name: &str) -> Option<String> {
    table.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
}

/// A number and what follows it.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// A tensor of the UNet; `each` blocks make a level.
pub fn unet(name: &str, each: usize) -> Option<String> {
    if let Some(outer) = begun(&OUTER, name) {
        return Some(outer);
    }
    let resnet = |rest: &str| begun(&RESNET, rest);
    if let Some(rest) = name.strip_prefix("input_blocks.") {
        let (i, rest) = numbered(rest)?;
        let (level, slot) = (i.checked_sub(1)? / each, (i - 1) % each);
        return match numbered(rest)? {
            (0, rest) if slot + 1 == each => {
                Some(format!("down_blocks.{level}.downsamplers.0.conv.{}", rest.strip_prefix("op.")?))
            }
            (0, rest) => Some(format!("down_blocks.{level}.resnets.{slot}.{}", resnet(rest)?)),
            (1, rest) => Some(format!("down_blocks.{level}.attentions.{slot}.{rest}")),
            _ => None,
        };
    }
    if let Some(rest) = name.strip_prefix("middle_block.") {
        return match numbered(rest)? {
            (0, rest) => Some(format!("mid_block.resnets.0.{}", resnet(rest)?)),
            // Without attention, the second block is the next one.
            (1, rest) => Some(match resnet(rest) {
                Some(rest) => format!("mid_block.resnets.1.{rest}"),
                None => format!("mid_block.attentions.0.{rest}"),
            }),
            (2, rest) => Some(format!("mid_block.resnets.1.{}", resnet(rest)?)),
            _ => None,
        };
    }
    if let Some(rest) = name.strip_prefix("output_blocks.") {
        let (i, rest) = numbered(rest)?;
        let (level, slot) = (i / each, i % each);
        return match numbered(rest)? {
            (0, rest) => Some(format!("up_blocks.{level}.resnets.{slot}.{}", resnet(rest)?)),
            (1 | 2, rest) if rest.starts_with("conv.") => {
                Some(format!("up_blocks.{level}.upsamplers.0.{rest}"))
            }
            (1, rest) => Some(format!("up_blocks.{level}.attentions.{slot}.{rest}")),
            _ => None,
        };
    }
    // The guidance of distilled models has diffusers' name.
    name.starts_with("time_embedding.").then(|| name.to_string())
}

/// [`unet`] of a path with `_` for dots, as some LoRAs have it; the result has some too.
pub fn flat_unet(flat: &str, each: usize) -> Option<String> {
    let dotted = |table: &[(&str, &str)], text: &str| {
        let from = |(ldm, _): &(&str, &str)| {
            let rest =
                format!("{text}_").strip_prefix(&ldm.replace('.', "_"))?.trim_end_matches('_').to_string();
            Some(format!("{ldm}{rest}"))
        };
        table.iter().find_map(from)
    };
    if let Some(outer) = dotted(&OUTER, flat) {
        return Some(unet(&outer, each)?.trim_end_matches('.').replace('.', "_"));
    }
    let (way, rest) = ["input_blocks_", "output_blocks_", "middle_block_"]
        .iter()
        .find_map(|way| Some((way.trim_end_matches('_'), flat.strip_prefix(way)?)))?;
    let numbers = if way == "middle_block" { 1 } else { 2 };
    let parts: Vec<&str> = rest.splitn(numbers + 1, '_').collect();
    let (places, inside) = parts.split_at_checked(numbers)?;
    let inside = inside.first()?;
    let inside = dotted(&RESNET, inside).unwrap_or(format!("{inside}."));
    let name = unet(&format!("{way}.{}.{inside}", places.join(".")), each)?;
    Some(name.trim_end_matches('.').replace('.', "_"))
}

/// A tensor of the autoencoder, which has so many levels; its second half counts them from the largest image.
pub fn vae(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = match name.split_once('.')? {
        (half @ ("encoder" | "decoder"), rest) => (half, rest),
        ("quant_conv" | "post_quant_conv", _) => return Some(name.to_string()),
        _ => return None,
    };
    let resnet = |rest: &str| rest.replace("nin_shortcut.", "conv_shortcut.");
    let inside = if let Some(rest) = rest.strip_prefix("mid.") {
        match rest.split_once('.')? {
            ("block_1", rest) => format!("mid_block.resnets.0.{rest}"),
            ("block_2", rest) => format!("mid_block.resnets.1.{rest}"),
            ("attn_1", rest) => format!("mid_block.attentions.0.{}", begun(&VAE_ATTENTION, rest)?),
            _ => return None,
        }
    } else if let Some(rest) = rest.strip_prefix("norm_out.") {
        format!("conv_norm_out.{rest}")
    } else if let Some((way, rest)) = rest.split_once('.').filter(|(way, _)| ["down", "up"].contains(way)) {
        let (level, rest) = numbered(rest)?;
        let level = if way == "up" { levels.checked_sub(1 + level)? } else { level };
        match rest.split_once('.')? {
            ("block", rest) => format!("{way}_blocks.{level}.resnets.{}", resnet(rest)),
            ("downsample", rest) => format!("{way}_blocks.{level}.downsamplers.0.{rest}"),
            ("upsample", rest) => format!("{way}_blocks.{level}.upsamplers.0.{rest}"),
            _ => return None,
        }
    } else {
        rest.to_string()
    };
    Some(format!("{half}.{inside}"))
}

/// A tensor of OpenCLIP's text tower; queries, keys and values are split already.
pub fn open_clip(name: &str) -> Option<String> {
    match name {
        "positional_embedding" => return Some("embeddings.position_embedding.weight".into()),
        "token_embedding.weight" => return Some("embeddings.token_embedding.weight".into()),
        _ if name.starts_with("encoder.layers.") => return Some(name.to_string()),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix("ln_final.") {
        return Some(format!("final_layer_norm.{rest}"));
    }
    let (layer, rest) = numbered(name.strip_prefix("transformer.resblocks.")?)?;
    Some(format!("encoder.layers.{layer}.{}", begun(&OPEN_CLIP, rest)?))
}
