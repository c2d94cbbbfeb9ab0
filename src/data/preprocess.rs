//! What happens to an image before a network sees it, as preprocessor_config.json says.

use super::config::Config;
use super::folder::Folder;
use super::image::{Filter, Rgb};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::borrow::Cow;

/// Resizing, cropping and normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// The shorter side becomes this long.
    shortest: usize,
    /// Side of the square cut out of the middle.
    pub crop: usize,
    filter: Filter,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Preprocess {
    /// Of a model's folder: the `image_processor` inside processor_config.json, which transformers writes since its version 5, else
    /// preprocessor_config.json; with neither, as OpenAI's CLIP, which is said.
    ///
    /// # Errors
    /// As [`Preprocess::new`].
    pub fn open(folder: &Folder) -> Result<Preprocess> {
        let (new, old) = ("processor_config.json", "preprocessor_config.json");
        let open = |file: &str| Config::parse(folder.name(file), &folder.text(file)?);
        if folder.has(new) {
            let config = open(new)?;
            if config.get("image_processor").is_some() {
                return Preprocess::new(&config.sub("image_processor")?);
            }
        }
        if folder.has(old) {
            return Preprocess::new(&open(old)?);
        }
        eprintln!("{}: neither {old} nor {new}: images are prepared as for OpenAI's CLIP", folder.name(""));
        Preprocess::new(&Config::parse(folder.name(old), "{}")?)
    }

    /// Reads a preprocessor_config.json; absent keys are those of OpenAI's CLIP.
    ///
    /// # Errors
    /// A key whose value is wrong or not supported.
    pub fn new(config: &Config) -> Result<Preprocess> {
        for key in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
            config.only(key, &[true.into(), Value::Null])?;
        }
        if (config.f64("rescale_factor", 1.0 / 255.0)? - 1.0 / 255.0).abs() > 1e-9 {
            return Err(config.unsupported("rescale_factor", config.f64("rescale_factor", None)?));
        }
        // A number, {"shortest_edge": n}, or a square given by both of its sides.
        const MOST: usize = 8192;
        let side = |key: &str| match config.get(key) {
            Some(Value::Object(_)) => {
                let size = config.sub(key)?;
                let square = size.get("height").is_some() && size.get("height") == size.get("width");
                match (size.get("shortest_edge"), square) {
                    (Some(_), _) => size.count("shortest_edge", None, MOST),
                    (None, true) if key == "crop_size" => size.count("height", None, MOST),
                    _ => Err(config.unsupported(key, config.get(key).cloned())),
                }
            }
            _ => config.count(key, 224, MOST),
        };
        let three = |key: &str, default: [f64; 3]| {
            let values = config.get(key).cloned().unwrap_or(json!(default));
            let numbers: Option<Vec<f32>> =
                values.as_array().and_then(|v| v.iter().map(|v| v.as_f64().map(|f| f as f32)).collect());
            let numbers: Option<[f32; 3]> = numbers.and_then(|n| n.try_into().ok());
            numbers.filter(|n| n.iter().all(|v| v.is_finite())).ok_or_else(|| config.unsupported(key, values))
        };
        let preprocess = Preprocess {
            shortest: side("size")?,
            crop: side("crop_size")?,
            filter: match config.u32("resample", 3)? {
                2 => Filter::Bilinear,
                3 => Filter::Bicubic,
                other => return Err(config.unsupported("resample", other)),
            },
            mean: three("image_mean", [0.48145466, 0.4578275, 0.40821073])?,
            std: three("image_std", [0.26862954, 0.26130258, 0.27577711])?,
        };
        if preprocess.crop > preprocess.shortest {
            let (crop, size) = (preprocess.crop, preprocess.shortest);
            bail!("{}: crop_size = {crop} is more than size = {size}", config.name());
        }
        if preprocess.std.contains(&0.0) {
            bail!("{}: image_std holds a zero", config.name());
        }
        Ok(preprocess)
    }

    /// Pixels (crop, crop, 3) of an image, normalised.
    pub fn pixels(&self, image: &Rgb) -> Vec<f32> {
        let image = middle(image);
        let (w, h) = (image.width, image.height);
        let long = |long: usize, short: usize| self.shortest * long / short;
        let (width, height) = if w <= h { (self.shortest, long(h, w)) } else { (long(w, h), self.shortest) };
        let image = image.resize(width, height, self.filter);
        let image = image.crop((width - self.crop) / 2, (height - self.crop) / 2, self.crop, self.crop);
        let normalise = |(i, v): (usize, &u8)| (f32::from(*v) / 255.0 - self.mean[i % 3]) / self.std[i % 3];
        image.data.iter().enumerate().map(normalise).collect()
    }
}

/// An image that is more than `LONGEST` times as long as wide, cropped to that around its middle: the rest would be resized, to an
/// unbounded size, only to be cut off.
fn middle(image: &Rgb) -> Cow<'_, Rgb> {
    const LONGEST: usize = 8;
    let most = LONGEST * image.width.min(image.height);
    // Both ends lose the same, so that the middle stays where it is.
    let ends = |side: usize| side.saturating_sub(most) / 2;
    let (left, top) = (ends(image.width), ends(image.height));
    match left + top {
        0 => Cow::Borrowed(image),
        _ => Cow::Owned(image.crop(left, top, image.width - 2 * left, image.height - 2 * top)),
    }
}
