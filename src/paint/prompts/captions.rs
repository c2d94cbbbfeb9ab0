//! Originals that a model is shown, so that a prompt says what is to be seen there.

use super::images::Image;
use super::labels::Labels;
use crate::data::image::{Filter, Rgb};
use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::path::Path;

/// Longest side of a picture that is sent: models see no more, and some charge by the pixel.
const SIDE: usize = 512;

impl Labels<'_> {
    /// The original that the prompt of an image describes, drawn by the image's key: of its domain, where that has some of the class, else of
    /// any other. None where no captions are asked for, or the class has none.
    pub fn original(&self, image: &Image) -> Option<&Path> {
        let class = self.classes.iter().position(|class| class == image.class)?;
        let own = self.shown.get(&image.domain.folder).map(|classes| &classes[class]);
        let all = || self.shown.values().flat_map(|classes| &classes[class]).collect();
        let drawn: Vec<_> = own.filter(|own| !own.is_empty()).map_or_else(all, |own| own.iter().collect());
        let number = self.key(image, "original").below(0, drawn.len().max(1) as u32);
        drawn.get(number as usize).map(|path| path.as_path())
    }
}

/// A picture as a request holds it.
///
/// # Errors
/// A file that is no picture.
pub fn data_uri(path: &Path) -> Result<String> {
    let picture = Rgb::open(path)?;
    let side = picture.width.max(picture.height);
    let fitted = |length: usize| (length * SIDE / side).max(1);
    let small = match side > SIDE {
        true => picture.resize(fitted(picture.width), fitted(picture.height), Filter::Bicubic),
        false => picture,
    };
    let png = small.png().with_context(|| format!("{}: cannot encode", path.display()))?;
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)))
}
