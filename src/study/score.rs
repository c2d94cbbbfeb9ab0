//! How much diversity generated images add, as "Language-guided diffusion for domain generalization" measures it: embed
//! everything with CLIP, and for s = 10 % .. 100 % join s x |D| generated images to each original domain D of |D| images.
//! (Where fewer images were generated, ten amounts up to those there are.)
//!
//! ```text
//! Score(s) = mean over original domains of the variance of the embeddings inside the domain
//! ```
//!
//! A cubic through Score(s) gives the optimum: its maximum inside the range, else the better end. CLIP also checks what the
//! generated images show: are the class and the style that the prompt asked for the likeliest of all?

use super::curve::{Curve, variance, vendi};
use super::embedded::{Embedded, Embeds, Image, Margins, nearest};
use super::panels;
use crate::core::Gpu;
use crate::data::chosen::{self, LeftOut};
use crate::data::rng::Key;
use crate::data::{below, writable_folder, write_atomic};
use crate::flags;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Generated images of each domain whose nearest original is recorded.
const NEAREST_PER_DOMAIN: usize = 2;

/// What to measure, and how: flags of `kaleid score`.
#[derive(Clone, Debug, clap::Args)]
pub struct Scoring {
    /// The originals: ROOT/DOMAIN/CLASS/image.
    #[arg(long, value_name = "ROOT")]
    pub data: PathBuf,
    /// Generated images: DIR/DOMAIN/CLASS/image.
    #[arg(long, value_name = "DIR")]
    pub generated: PathBuf,
    /// A domain that does not count, by name; may be given again.
    #[arg(long, value_name = "DOMAIN")]
    pub hold_out: Vec<String>,
    /// What texts call a domain, where it is not its folder's name.
    #[arg(skip)]
    pub names: BTreeMap<String, String>,
    /// Decides the orders in which images join.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How it is measured.
    #[command(flatten)]
    pub measure: Measure,
}

/// How to measure: flags of `kaleid score`, and the table `[score]` of run.toml.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measure {
    /// CLIP folder in Hugging Face's layout; `builtin` is the demo's small one.
    #[arg(long, value_name = "DIR")]
    pub clip: PathBuf,
    /// Sum the variances over the embedding's dimensions, instead of taking their mean.
    #[arg(long)]
    pub trace: bool,
    /// Use embeddings as CLIP projects them, instead of scaled to length 1.
    #[arg(long)]
    pub unnormalised: bool,
}

impl Scoring {
    /// The generated images that do not count.
    ///
    /// # Errors
    /// As [`chosen::left_out`].
    pub fn left_out(&self) -> Result<LeftOut> {
        chosen::left_out(&self.generated, &self.hold_out)
    }
}

impl Default for Measure {
    /// With the empty path for the folder, which must be given.
    fn default() -> Measure {
        Measure { clip: PathBuf::new(), ..flags::parse(&["--clip", "DIR"]) }
    }
}

/// What was measured: diversity.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// What variance means here.
    pub form: String,
    /// Folder of the model.
    pub clip: String,
    /// Numbers in an embedding.
    pub width: usize,
    /// Score(s).
    #[serde(flatten)]
    pub curve: Curve,
    /// Vendi score of the originals, and of them with all generated images: how many different ones there are, in effect.
    #[serde(default)]
    pub vendi: [f64; 2],
    /// How embedding.svg was made.
    #[serde(default)]
    pub plane: String,
    /// Each domain.
    pub domains: BTreeMap<String, DomainDiversity>,
    /// Share of generated images whose likeliest class (style) by CLIP is the one that their prompt named.
    pub class_agreement: f64,
    /// See `class_agreement`.
    pub style_agreement: f64,
    /// A few generated images and the original each is most like.
    pub nearest: Vec<Nearest>,
}

impl Diversity {
    /// What [`Diversity::lines`] are.
    pub fn head(&self) -> [&'static str; 5] {
        ["domain", "originals", "generated", "class agrees", "style agrees"]
    }

    /// A row a domain.
    pub fn lines(&self) -> Vec<Vec<String>> {
        let percent =
            |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
        let line = |(name, d): (&String, &DomainDiversity)| {
            let counts = [d.originals, d.generated].map(|n| n.to_string());
            let shares = [d.class_agreement, d.style_agreement].map(percent);
            [name.clone()].into_iter().chain(counts).chain(shares).collect()
        };
        self.domains.iter().map(line).collect()
    }
}

/// One domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainDiversity {
    /// Number of originals.
    pub originals: usize,
    /// Number of generated images.
    pub generated: usize,
    /// Variance of the originals; absent in a new domain.
    pub variance_of_originals: Option<f64>,
    /// Variance of the generated images.
    pub variance_of_generated: Option<f64>,
    /// See [`Diversity::class_agreement`].
    pub class_agreement: Option<f64>,
    /// See [`Diversity::class_agreement`].
    pub style_agreement: Option<f64>,
}

/// A generated image beside the original that it is most like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nearest {
    /// Below the folder of generated images.
    pub generated: String,
    /// Below the data set.
    pub original: String,
    /// Cosine of their embeddings.
    pub cosine: f64,
}

/// Measures, and writes diversity.json, diversity.svg and embedding.svg into `out`.
///
/// # Errors
/// Data, images or a CLIP that do not work; a folder that cannot be written; Ctrl-C.
pub fn run(gpu: &Gpu, scoring: &Scoring, out: &Path) -> Result<Diversity> {
    writable_folder(out)?;
    let embeds = Embeds::new(gpu, scoring)?;
    measure(embeds, scoring, out)
}

/// [`run`] of images that are embedded already.
///
/// # Errors
/// Nothing to compare; a device that fails; a folder that cannot be written.
pub fn measure(mut embeds: Embeds, scoring: &Scoring, out: &Path) -> Result<Diversity> {
    embeds.check(scoring)?;
    // Right is what CLIP prefers.
    let right = |of: &[Margins], margin: fn(&Margins) -> f32| of.iter().filter(|m| margin(m) >= 0.0).count();
    let right: Vec<[usize; 2]> =
        embeds.margins(scoring)?.iter().map(|of| [right(of, |m| m.class), right(of, |m| m.style)]).collect();
    let Embeds { originals, generated, .. } = &embeds;
    let made: usize = generated.iter().map(|made| made.images.len()).sum();
    let share = |k: usize| right.iter().map(|r| r[k]).sum::<usize>() as f64 / made as f64;
    let with_own = originals.iter().filter_map(|original| {
        let own = generated.iter().find(|g| g.name == original.name)?;
        Some((rows(original, scoring), rows(own, scoring)))
    });
    let curve = Curve::new(&with_own.collect::<Vec<_>>(), scoring.measure.trace, scoring.seed);
    let own: Vec<&[f32]> = units(originals).collect();
    let all: Vec<&[f32]> = units(originals).chain(units(generated)).collect();
    let diversity = Diversity {
        vendi: [&own, &all].map(|rows| vendi(rows)),
        plane: panels::method(all.len()),
        form: form(scoring),
        clip: embeds.clip.clone(),
        width: embeds.width(),
        curve,
        domains: by_domain(scoring, originals, generated, &right),
        class_agreement: share(0),
        style_agreement: share(1),
        nearest: nearest_originals(scoring, originals, generated),
    };
    // Pictures first: a folder with diversity.json holds them too.
    write_atomic(out.join("embedding.svg"), panels::svg(originals, generated, scoring.seed)?.as_bytes())?;
    write_atomic(out.join("diversity.svg"), diversity.curve.svg()?.as_bytes())?;
    let json = serde_json::to_string_pretty(&diversity)? + "\n";
    write_atomic(out.join("diversity.json"), json.as_bytes())?;
    Ok(diversity)
}

/// The embeddings of a domain that variances are taken of.
fn rows<'a>(of: &'a Embedded, scoring: &Scoring) -> Vec<&'a [f32]> {
    let row = |image: &'a Image| &(if scoring.measure.unnormalised { &image.raw } else { &image.unit })[..];
    of.images.iter().map(row).collect()
}

/// The embeddings of length 1 of all domains.
fn units(of: &[Embedded]) -> impl Iterator<Item = &[f32]> {
    of.iter().flat_map(|domain| &domain.images).map(|image| &image.unit[..])
}

/// What variance means with these settings.
fn form(scoring: &Scoring) -> String {
    let over = if scoring.measure.trace { "sum" } else { "mean" };
    let of = if scoring.measure.unnormalised { "unnormalised embeddings" } else { "embeddings of length 1" };
    format!("{over} over dimensions of the biased variance of {of}")
}

/// The counts and variances of each domain. `right` is in how many generated ones CLIP finds the right class, and the right style.
fn by_domain(
    scoring: &Scoring,
    originals: &[Embedded],
    generated: &[Embedded],
    right: &[[usize; 2]],
) -> BTreeMap<String, DomainDiversity> {
    let mut domains: BTreeMap<String, DomainDiversity> = BTreeMap::new();
    for own in originals {
        let entry = domains.entry(own.name.clone()).or_default();
        entry.originals = own.images.len();
        entry.variance_of_originals = Some(variance(&rows(own, scoring), scoring.measure.trace));
    }
    for (made, right) in generated.iter().zip(right) {
        let entry = domains.entry(made.name.clone()).or_default();
        entry.generated = made.images.len();
        entry.variance_of_generated = Some(variance(&rows(made, scoring), scoring.measure.trace));
        [entry.class_agreement, entry.style_agreement] =
            right.map(|n| Some(n as f64 / made.images.len() as f64));
    }
    domains
}

/// A few images of each generated domain with the originals they are most like.
fn nearest_originals(scoring: &Scoring, originals: &[Embedded], generated: &[Embedded]) -> Vec<Nearest> {
    let mut pairs = vec![];
    for Embedded { name, images } in generated {
        let order = Key::new(scoring.seed, 0, &format!("nearest {name}")).permutation(images.len());
        for &i in order.iter().take(NEAREST_PER_DOMAIN) {
            let all = originals.iter().flat_map(|original| &original.images);
            if let Some((original, cosine)) = nearest(&images[i], all) {
                pairs.push(Nearest {
                    generated: below(&images[i].item.path, &scoring.generated),
                    original: below(&original.path, &scoring.data),
                    cosine: f64::from(cosine),
                });
            }
        }
    }
    pairs
}
