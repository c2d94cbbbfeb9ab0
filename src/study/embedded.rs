//! Images as CLIP embeds them: the originals that count, the generated ones, and how well each shows what its prompt asked for.

use super::demo;
use super::score::Scoring;
use crate::core::Gpu;
use crate::data::chosen::{LeftOut, REVIEW, painted_from};
use crate::data::dataset::{Dataset, Domain, Item, load};
use crate::data::spaced;
use crate::engines::clip::ClipEmbedder;
use crate::paint::prompts::plain;
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Result, bail};
use std::path::Path;

/// Images decoded at once, so that neither memory nor the wait for Ctrl-C grows with the data set.
const CHUNK: usize = 64;

/// Originals and generated images, embedded, and the CLIP that did it.
pub struct Embeds {
    /// Where its files are.
    pub clip: String,
    /// The data set's classes.
    pub classes: Vec<String>,
    /// The original domains that count.
    pub originals: Vec<Embedded>,
    /// The generated ones.
    pub generated: Vec<Embedded>,
    model: ClipEmbedder,
}

/// A domain's images.
pub struct Embedded {
    /// The domain.
    pub name: String,
    /// In the order of the data set.
    pub images: Vec<Image>,
}

/// An image and its embedding.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its file and class.
    pub item: Item,
    /// Scaled to length 1.
    pub unit: Vec<f32>,
    /// As CLIP projects it.
    pub raw: Vec<f32>,
}

/// By how much CLIP prefers the class and the style of an image's prompt to the best of the others, in cosine; negative where it prefers
/// another. Infinite where there is no other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margins {
    /// Each class by its best style.
    pub class: f32,
    /// Each style by its best class.
    pub style: f32,
}

impl Embeds {
    /// Embeds what `scoring` compares, without the generated images that are left out.
    ///
    /// # Errors
    /// Data, images or a CLIP that do not work; Ctrl-C.
    pub fn new(gpu: &Gpu, scoring: &Scoring) -> Result<Embeds> {
        Embeds::without(gpu, scoring, &scoring.left_out()?)
    }

    /// The same with all of them.
    ///
    /// # Errors
    /// As [`Embeds::new`].
    pub fn all(gpu: &Gpu, scoring: &Scoring) -> Result<Embeds> {
        Embeds::without(gpu, scoring, &painted_from(&scoring.generated, &scoring.hold_out)?)
    }

    fn without(gpu: &Gpu, scoring: &Scoring, left_out: &LeftOut) -> Result<Embeds> {
        let folder = demo::folder(&scoring.measure.clip, "clip")?;
        let data = Dataset::open(&scoring.data)?;
        let (originals, generated) = compared(scoring, &data, left_out)?;
        let mut model = ClipEmbedder::open(gpu, &folder, gpu.caps().weights())?;
        let count = |domains: &[Domain]| domains.iter().map(|d| d.items.len()).sum::<usize>();
        let made = count(&generated);
        let all = count(&originals) + made;
        let [of_images, of_texts] = model.needs().map(|needs| needs.memory.total() >> 20);
        let adapter = &gpu.caps().adapter;
        eprintln!(
            "{adapter}: CLIP's image tower {of_images} MiB, its text tower {of_texts} MiB; {all} images, {made} of them generated"
        );
        let progress = Progress::new("score", all as u64, "images");
        let mut embedded = |domains: Vec<Domain>| -> Result<Vec<Embedded>> {
            let one =
                |d: Domain| Ok(Embedded { name: d.name, images: embed(&mut model, d.items, &progress)? });
            domains.into_iter().map(one).collect()
        };
        let (originals, generated) = (embedded(originals)?, embedded(generated)?);
        progress.finish();
        let clip = folder.name("").trim_end_matches('/').to_string();
        Ok(Embeds { clip, classes: data.classes, originals, generated, model })
    }

    /// Numbers in an embedding.
    pub fn width(&self) -> usize {
        self.model.width()
    }

    /// Embeds the generated images again that were painted anew.
    ///
    /// # Errors
    /// As [`Embeds::new`].
    pub fn renew(&mut self, anew: impl Fn(&Path) -> bool) -> Result<()> {
        let places = self.generated.iter_mut().flat_map(|made| &mut made.images);
        let mut changed: Vec<&mut Image> = places.filter(|image| anew(&image.item.path)).collect();
        let progress = Progress::new("score", changed.len() as u64, "images");
        let items = changed.iter().map(|image| image.item.clone()).collect();
        let new = embed(&mut self.model, items, &progress)?;
        changed.iter_mut().zip(new).for_each(|(place, image)| **place = image);
        progress.finish();
        Ok(())
    }

    /// Whether the generated images are those that count now: a person may have judged some in the meantime.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn are_those_of(&self, scoring: &Scoring) -> Result<bool> {
        let now = Dataset::added(&scoring.generated, &self.classes, &scoring.left_out()?)?;
        let now = now.iter().flat_map(|domain| &domain.items).map(|item| &item.path);
        Ok(now.eq(self.generated.iter().flat_map(|made| &made.images).map(|image| &image.item.path)))
    }

    /// Forgets the generated images that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        self.generated.iter_mut().for_each(|made| made.images.retain(|image| keep(&image.item.path)));
        self.generated.retain(|made| !made.images.is_empty());
    }

    /// Sees that there is something left to compare.
    ///
    /// # Errors
    /// No generated images in the style of an original domain.
    pub fn check(&self, scoring: &Scoring) -> Result<()> {
        let names = |of: &[Embedded]| of.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        comparable(scoring, &names(&self.originals), &names(&self.generated))
    }

    /// How well CLIP finds what was asked for in each generated image, a list for each domain: it reads the plain prompt of every class
    /// and style.
    ///
    /// # Errors
    /// A device that fails.
    pub fn margins(&mut self, scoring: &Scoring) -> Result<Vec<Vec<Margins>>> {
        let words = |name: &String| spaced(scoring.names.get(name).unwrap_or(name));
        let mut texts = vec![];
        for style in self.generated.iter().map(|made| words(&made.name)) {
            texts.extend(self.classes.iter().map(|class| plain(&words(class), &style)));
        }
        let texts = self.model.texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let (styles, classes) = (self.generated.len(), self.classes.len());
        let of_image = |style: usize, image: &Image| {
            let (mut by_class, mut by_style) = (vec![f32::MIN; classes], vec![f32::MIN; styles]);
            for (i, text) in texts.iter().enumerate() {
                let cosine = dot(&image.unit, text);
                let (s, c) = (&mut by_style[i / classes], &mut by_class[i % classes]);
                (*s, *c) = (s.max(cosine), c.max(cosine));
            }
            Margins { class: margin(&by_class, image.item.class), style: margin(&by_style, style) }
        };
        let of_domain =
            |(style, made): (usize, &Embedded)| made.images.iter().map(|i| of_image(style, i)).collect();
        Ok(self.generated.iter().enumerate().map(of_domain).collect())
    }
}

/// The original domains that count, and the generated ones.
fn compared(scoring: &Scoring, data: &Dataset, left_out: &LeftOut) -> Result<(Vec<Domain>, Vec<Domain>)> {
    for name in &scoring.hold_out {
        data.env(name)?;
    }
    let originals: Vec<Domain> =
        data.domains.iter().filter(|d| !scoring.hold_out.contains(&d.name)).cloned().collect();
    let generated = Dataset::added(&scoring.generated, &data.classes, left_out)?;
    let names = |domains: &[Domain]| domains.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
    comparable(scoring, &names(&originals), &names(&generated))?;
    Ok((originals, generated))
}

/// Sees that there are generated images, and some of them in the style of an original domain.
fn comparable(scoring: &Scoring, originals: &[String], generated: &[String]) -> Result<()> {
    let place = scoring.generated.display();
    let left_out = || -> Result<String> {
        Ok(match scoring.left_out()?.len() {
            0 => String::new(),
            n => format!(" ({n} are left out: loosen [select], or keep some in {REVIEW})"),
        })
    };
    if generated.is_empty() {
        bail!("{place}: no generated images, DOMAIN/CLASS/image{}", left_out()?);
    }
    if !originals.iter().any(|name| generated.contains(name)) {
        let names = originals.join(", ");
        bail!(
            "{place}: no images in the style of an original domain ({names}): Score(s) needs them{}",
            left_out()?
        );
    }
    Ok(())
}

fn embed(model: &mut ClipEmbedder, items: Vec<Item>, progress: &Progress) -> Result<Vec<Image>> {
    let mut images = vec![];
    for chunk in items.chunks(CHUNK) {
        bail_if_stopped()?;
        let embeds = model.images(&load(chunk, || {})?)?;
        let rows = embeds.unit.into_iter().zip(embeds.raw);
        images.extend(chunk.iter().zip(rows).map(|(item, (unit, raw))| Image {
            item: item.clone(),
            unit,
            raw,
        }));
        progress.inc(chunk.len() as u64);
    }
    Ok(images)
}

/// The image that `image` is most like of others, the first of equals, and their cosine.
pub fn nearest<'a>(image: &Image, others: impl Iterator<Item = &'a Image>) -> Option<(&'a Item, f32)> {
    let mut best: Option<(&Item, f32)> = None;
    for other in others.filter(|other| other.item.path != image.item.path) {
        let cosine = dot(&image.unit, &other.unit);
        if best.is_none_or(|(_, most)| cosine > most) {
            best = Some((&other.item, cosine));
        }
    }
    best
}

/// By how much the number at `own` is larger than the largest other.
fn margin(values: &[f32], own: usize) -> f32 {
    let others = values.iter().enumerate().filter(|(i, _)| *i != own);
    values[own] - others.map(|(_, v)| *v).fold(f32::NEG_INFINITY, f32::max)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
