//! CLIP's towers against transformers'.

use super::golden::{Comparison, Golden};
use crate::core::DType;
use crate::engines::{clip::embed, load};
use crate::models::clip::{self, ClipConfig, TextConfig};
use crate::ops::Matmul;
use anyhow::Result;

/// A `CLIPTextModel`: input_ids -> context.
///
/// # Errors
/// A golden that lacks what it should hold.
pub fn compare_text(golden: &Golden) -> Result<Vec<Comparison>> {
    let config = TextConfig::new(&golden.config)?;
    let ([batch, length], ids) = golden.ids("input_ids")?;
    let checkpoint = clip::modern_names(golden.weights()?);
    let mut plan = load(&golden.gpu, golden.dtype, &checkpoint, |w| {
        let tokens = w.graph().input("tokens", &[batch, length, config.hidden_size()], DType::F32);
        w.graph().output("context", clip::text_model(w, &config, tokens));
    })?;
    plan.write("tokens", &embed(&config, &checkpoint, "", &ids)?)?;
    plan.run()?;
    Ok(vec![golden.compare("context", &plan.read("context")?)?])
}

/// A `CLIPModel`: pixel_values and input_ids -> hidden states, embeddings and their products.
///
/// # Errors
/// A golden that lacks what it should hold.
pub fn compare(golden: &Golden) -> Result<Vec<Comparison>> {
    let config = ClipConfig::new(&golden.config)?;
    let ([batch, length], ids) = golden.ids("input_ids")?;
    let (image_shape, pixels) = golden.image("pixel_values")?;
    let checkpoint = golden.weights()?;
    let mut plan = load(&golden.gpu, golden.dtype, &checkpoint, |w| {
        let g = w.graph();
        let pixels = g.input("pixels", &image_shape, DType::F32);
        let images = clip::vision_model(&w.sub("vision_model"), &config.vision, pixels);
        g.output("vision_last_hidden_state", images);
        let images = clip::normalize(g, clip::image_features(w, &config, images));
        g.output("image_embeds", images);

        let tokens = g.input("tokens", &[batch, length, config.text.hidden_size()], DType::F32);
        let texts = clip::text_model(&w.sub("text_model"), &config.text, tokens);
        g.output("text_last_hidden_state", texts);
        let end = g.input("end", &[batch, 1, length], DType::F32);
        let texts = clip::text_embeds(w, &config, texts, end);
        g.output("text_embeds", texts);

        let cosines = g.matmul_with(images, texts, Matmul { transpose_b: true, ..Default::default() });
        g.output("logits_per_image", g.mul(cosines, g.exp(w.get("logit_scale", &[1]))));
    })?;
    plan.write("pixels", &pixels)?;
    plan.write("tokens", &embed(&config.text, &checkpoint, "text_model.", &ids)?)?;
    plan.write("end", &config.text.end_mask(&ids, length))?;
    plan.run()?;
    let outputs = [
        "vision_last_hidden_state",
        "text_last_hidden_state",
        "image_embeds",
        "text_embeds",
        "logits_per_image",
    ];
    outputs.iter().map(|name| golden.compare(name, &plan.read(name)?)).collect()
}
