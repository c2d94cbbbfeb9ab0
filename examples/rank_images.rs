//! Ranks images by how well they fit a text, with CLIP.
//!
//!     cargo run --release --example rank_images CLIP_FOLDER TEXT IMAGE...
//!     cargo run --release --example rank_images builtin "A picture of food in the style of noto emoji" weights/demo/data/noto/*/*.webp
//!
//! `builtin` is the demo's small CLIP, which knows its seven classes and six styles.

use anyhow::{Context, Result, bail};
use kaleid::core::{DType, Gpu, GpuOptions};
use kaleid::data::image::Rgb;
use kaleid::engines::clip::ClipEmbedder;
use kaleid::study::demo;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, text, paths @ ..] = &args[..] else { bail!("usage: rank_images CLIP_FOLDER TEXT IMAGE...") };
    let gpu = Gpu::open(&GpuOptions::from_env())?;
    let mut clip = ClipEmbedder::open(&gpu, &demo::folder(folder.as_ref(), "clip")?, DType::F32)?;

    let text = clip.texts(&[text])?.pop().context("one text, one embedding")?;
    let images = paths.iter().map(Rgb::open).collect::<Result<Vec<_>>>()?;
    // Embeddings have length 1, so their products are cosines.
    let cosine = |image: Vec<f32>| image.iter().zip(&text).map(|(a, b)| a * b).sum::<f32>();
    let mut ranked: Vec<(f32, &String)> =
        clip.images(&images)?.unit.into_iter().map(cosine).zip(paths).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (cosine, path) in ranked.into_iter().take(10) {
        println!("{cosine:6.3}  {path}");
    }
    Ok(())
}
