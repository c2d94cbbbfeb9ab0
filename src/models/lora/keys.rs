//! How programs spell what a tensor of a LoRA is, and the layer that it belongs to.

/// What a tensor is to the change of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Down,
    Up,
    Mid,
    Alpha,
    Scale,
    /// DoRA's lengths of rows or columns.
    Magnitude,
    /// LoHa's factors: the first or second product's left, right, and Tucker's core.
    Hada(u8, char),
    /// LoKr's: of the first or second matrix, whole (`w`), left, right, core.
    Kron(u8, char),
    /// A whole difference, to a weight or a bias.
    Diff,
    DiffBias,
    /// Of a kind that is not supported.
    Refused(&'static str),
}

/// Endings of names, longer ones before those that they end in.
const ENDINGS: [(&str, Role); 45] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".alpha", Role::Alpha),
    (".scale", Role::Scale),
    (".dora_scale", Role::Magnitude),
    (".lora_magnitude_vector.default.weight", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".lora_magnitude_vector", Role::Magnitude),
    (".hada_w1_a", Role::Hada(1, 'a')),
    (".hada_w1_b", Role::Hada(1, 'b')),
    (".hada_w2_a", Role::Hada(2, 'a')),
    (".hada_w2_b", Role::Hada(2, 'b')),
    (".hada_t1", Role::Hada(1, 't')),
    (".hada_t2", Role::Hada(2, 't')),
    (".lokr_w1", Role::Kron(1, 'w')),
    (".lokr_w1_a", Role::Kron(1, 'a')),
    (".lokr_w1_b", Role::Kron(1, 'b')),
    (".lokr_w2", Role::Kron(2, 'w')),
    (".lokr_w2_a", Role::Kron(2, 'a')),
    (".lokr_w2_b", Role::Kron(2, 'b')),
    (".lokr_t2", Role::Kron(2, 't')),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".w_norm", Role::Diff),
    (".b_norm", Role::DiffBias),
    (".oft_blocks", Role::Refused("OFT")),
    (".oft_diag", Role::Refused("OFT")),
    (".on_input", Role::Refused("IA3")),
    (".a1.weight", Role::Refused("GLoRA")),
    (".b1.weight", Role::Refused("GLoRA")),
    (".reshape_weight", Role::Refused("a LoRA that grows the model")),
    ("lora_controlnet", Role::Refused("a ControlNet")),
];

/// Which part of Stable Diffusion a layer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Unet,
    Text,
}

/// What stands before a layer's path: kohya's, LyCORIS', diffusers', PEFT's, nothing.
const PREFIXES: [(&str, Side); 16] = [
    ("lora_unet_", Side::Unet),
    ("lora_te_", Side::Text),
    ("lora_te1_", Side::Text),
    ("lycoris_unet_", Side::Unet),
    ("lycoris_te_", Side::Text),
    ("lycoris_te1_", Side::Text),
    ("lycoris_", Side::Unet),
    ("lora_", Side::Unet),
    ("unet.base_model.model.", Side::Unet),
    ("text_encoder.base_model.model.", Side::Text),
    ("unet.", Side::Unet),
    ("text_encoder.", Side::Text),
    ("base_model.model.", Side::Unet),
    ("base_model.model.", Side::Text),
    ("", Side::Unet),
    ("", Side::Text),
];

/// The layer and the role in the name of a tensor.
pub fn split(key: &str) -> Option<(&str, Role)> {
    ENDINGS.iter().find_map(|(ending, role)| Some((key.strip_suffix(ending)?, *role)))
}

/// The paths, with `_` for dots, that a layer may have, the likelier ones first.
pub fn sides(module: &str) -> Vec<(Side, String)> {
    let with = |(prefix, side): &(&str, Side)| Some((*side, flat(module.strip_prefix(prefix)?, *side)));
    PREFIXES.iter().filter_map(with).collect()
}

/// A path as our own layers have it, with `_` for dots.
fn flat(path: &str, side: Side) -> String {
    let mut flat = path.replace(".processor", "").replace('.', "_");
    match side {
        // Files from before 2023's end call the last projection by its list.
        Side::Unet if flat.ends_with("_to_out") => flat.push_str("_0"),
        Side::Unet => {}
        Side::Text => {
            flat = flat.strip_prefix("text_model_").unwrap_or(&flat).to_string();
            for (old, new) in
                [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")]
            {
                if let Some(rest) = flat.strip_suffix(old) {
                    flat = format!("{rest}{new}");
                }
            }
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_in_every_spelling() {
        let unet = (Side::Unet, "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0".to_string());
        for key in [
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
            "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
            "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.default.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
        ] {
            let (module, role) = split(key).unwrap();
            assert_eq!(role, Role::Down);
            assert!(sides(module).contains(&unet), "{key}: {:?}", sides(module));
        }
        let text = (Side::Text, "encoder_layers_3_self_attn_q_proj".to_string());
        for key in [
            "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight",
            "lora_te1_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.up.weight",
        ] {
            let (module, role) = split(key).unwrap();
            assert_eq!(role, Role::Up);
            assert!(sides(module).contains(&text), "{key}: {:?}", sides(module));
        }
        assert_eq!(split("lora_unet_conv_in.lokr_w1_a"), Some(("lora_unet_conv_in", Role::Kron(1, 'a'))));
        assert_eq!(split("model.diffusion_model.out.2.weight"), None);
    }
}
