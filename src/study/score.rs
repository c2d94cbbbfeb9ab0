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

use super::curve::{Curve, variance};
use super::demo;
use crate::core::Gpu;
use crate::data::dataset::{Dataset, Domain, load};
use crate::data::rng::Key;
use crate::data::{spaced, writable_folder, write_atomic};
use crate::engines::clip::{ClipEmbedder, ImageEmbeds};
use crate::flags;
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Generated images of each domain whose nearest original is recorded.
const NEAREST_PER_DOMAIN: usize = 2;
/// Images decoded at once, so that neither memory nor the wait for Ctrl-C grows with the data set.
const CHUNK: usize = 64;

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

impl Default for Measure {
    /// With the empty path for the folder, which must be given.
    fn default() -> Measure {
        Measure { clip: PathBuf::new(), ..flags::parse(&["--clip", "DIR"]) }
    }
}

/// What was measured: diversity.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Each domain.
    pub domains: BTreeMap<String, DomainDiversity>,
    /// Share of generated images whose likeliest class (style) by CLIP is the one that their prompt named.
    pub class_agreement: f64,
    /// See `class_agreement`.
    pub style_agreement: f64,
    /// A few generated images and the original each is most like.
    pub nearest: Vec<Nearest>,
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

/// Measures, and writes diversity.json and diversity.svg into `out`.
///
/// # Errors
/// Data, images or a CLIP that do not work; a folder that cannot be written; Ctrl-C.
pub fn run(gpu: &Gpu, scoring: &Scoring, out: &Path) -> Result<Diversity> {
    let clip = demo::folder(&scoring.measure.clip, "clip")?;
    let data = Dataset::open(&scoring.data)?;
    let (originals, generated) = compared(scoring, &data)?;
    let mut model = ClipEmbedder::open(gpu, &clip, gpu.caps().weights())?;
    writable_folder(out)?;
    let count = |domains: &[Domain]| domains.iter().map(|d| d.items.len()).sum::<usize>();
    let made = count(&generated);
    let [of_images, of_texts] = model.needs().map(|needs| needs.memory.total() >> 20);
    eprintln!(
        "{}: CLIP's image tower {of_images} MiB, its text tower {of_texts} MiB; {} images, {made} of them generated",
        gpu.caps().adapter,
        count(&originals) + made
    );
    let progress = Progress::new("score", (count(&originals) + made) as u64, "images");
    let mut embed = |domains: Vec<Domain>| -> Result<Vec<Embedded>> {
        domains.into_iter().map(|d| Embedded::new(d, &mut model, &progress)).collect()
    };
    let (originals, generated) = (embed(originals)?, embed(generated)?);
    progress.finish();

    let right = agreement(scoring, &mut model, &data.classes, &generated)?;
    let share = |k: usize| right.iter().map(|r| r[k]).sum::<usize>() as f64 / made as f64;
    let with_own = originals.iter().filter_map(|original| {
        let own = generated.iter().find(|g| g.domain.name == original.domain.name)?;
        Some((original.rows(scoring), own.rows(scoring)))
    });
    let curve = Curve::new(&with_own.collect::<Vec<_>>(), scoring.measure.trace, scoring.seed);
    let diversity = Diversity {
        form: form(scoring),
        clip: clip.name("").trim_end_matches('/').to_string(),
        width: model.width(),
        curve,
        domains: by_domain(scoring, &originals, &generated, &right),
        class_agreement: share(0),
        style_agreement: share(1),
        nearest: nearest(scoring, &originals, &generated),
    };
    // The picture first: a folder with diversity.json holds both.
    write_atomic(out.join("diversity.svg"), diversity.curve.svg()?.as_bytes())?;
    let json = serde_json::to_string_pretty(&diversity)? + "\n";
    write_atomic(out.join("diversity.json"), json.as_bytes())?;
    Ok(diversity)
}

/// The original domains that count, and the generated ones.
fn compared(scoring: &Scoring, data: &Dataset) -> Result<(Vec<Domain>, Vec<Domain>)> {
    for name in &scoring.hold_out {
        data.env(name)?;
    }
    let originals: Vec<Domain> =
        data.domains.iter().filter(|d| !scoring.hold_out.contains(&d.name)).cloned().collect();
    let generated = Dataset::added(&scoring.generated, &data.classes)?;
    let place = scoring.generated.display();
    if generated.is_empty() {
        bail!("{place}: no generated images, DOMAIN/CLASS/image");
    }
    if !originals.iter().any(|d| generated.iter().any(|g| g.name == d.name)) {
        let names: Vec<&str> = originals.iter().map(|d| d.name.as_str()).collect();
        bail!(
            "{place}: no images in the style of an original domain ({}): Score(s) needs them",
            names.join(", ")
        );
    }
    Ok((originals, generated))
}

/// A domain with the embeddings of its images.
struct Embedded {
    domain: Domain,
    images: ImageEmbeds,
}

impl Embedded {
    fn new(domain: Domain, model: &mut ClipEmbedder, progress: &Progress) -> Result<Embedded> {
        let mut images = ImageEmbeds::default();
        for chunk in domain.items.chunks(CHUNK) {
            bail_if_stopped()?;
            let embedded = model.images(&load(chunk, || {})?)?;
            images.unit.extend(embedded.unit);
            images.raw.extend(embedded.raw);
            progress.inc(chunk.len() as u64);
        }
        Ok(Embedded { domain, images })
    }

    /// The embeddings that variances are taken of.
    fn rows(&self, scoring: &Scoring) -> Vec<&[f32]> {
        let rows = if scoring.measure.unnormalised { &self.images.raw } else { &self.images.unit };
        rows.iter().map(Vec::as_slice).collect()
    }
}

/// What variance means with these settings.
fn form(scoring: &Scoring) -> String {
    let over = if scoring.measure.trace { "sum" } else { "mean" };
    let of = if scoring.measure.unnormalised { "unnormalised embeddings" } else { "embeddings of length 1" };
    format!("{over} over dimensions of the biased variance of {of}")
}

/// The counts and variances of each domain. `right` is what [`agreement`] found in the generated ones.
fn by_domain(
    scoring: &Scoring,
    originals: &[Embedded],
    generated: &[Embedded],
    right: &[[usize; 2]],
) -> BTreeMap<String, DomainDiversity> {
    let mut domains: BTreeMap<String, DomainDiversity> = BTreeMap::new();
    for own in originals {
        let entry = domains.entry(own.domain.name.clone()).or_default();
        entry.originals = own.domain.items.len();
        entry.variance_of_originals = Some(variance(&own.rows(scoring), scoring.measure.trace));
    }
    for (made, right) in generated.iter().zip(right) {
        let entry = domains.entry(made.domain.name.clone()).or_default();
        entry.generated = made.domain.items.len();
        entry.variance_of_generated = Some(variance(&made.rows(scoring), scoring.measure.trace));
        [entry.class_agreement, entry.style_agreement] =
            right.map(|n| Some(n as f64 / made.domain.items.len() as f64));
    }
    domains
}

/// In how many images of each generated domain CLIP finds the right class, and the right style.
fn agreement(
    scoring: &Scoring,
    model: &mut ClipEmbedder,
    classes: &[String],
    generated: &[Embedded],
) -> Result<Vec<[usize; 2]>> {
    let words = |name: &String| spaced(scoring.names.get(name).unwrap_or(name));
    let mut texts = vec![];
    for style in generated.iter().map(|g| words(&g.domain.name)) {
        texts.extend(classes.iter().map(|c| format!("A picture of {} in the style of {style}.", words(c))));
    }
    let texts = model.texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut right = vec![[0, 0]; generated.len()];
    for (style, made) in generated.iter().enumerate() {
        for (item, image) in made.domain.items.iter().zip(&made.images.unit) {
            // Each class by its best style, each style by its best class.
            let (mut by_class, mut by_style) =
                (vec![f32::MIN; classes.len()], vec![f32::MIN; generated.len()]);
            for (i, text) in texts.iter().enumerate() {
                let (s, c) = (i / classes.len(), i % classes.len());
                let cosine = dot(image, text);
                by_class[c] = by_class[c].max(cosine);
                by_style[s] = by_style[s].max(cosine);
            }
            right[style][0] += usize::from(largest(&by_class) == item.class);
            right[style][1] += usize::from(largest(&by_style) == style);
        }
    }
    Ok(right)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}

/// A few images of each generated domain with the originals they are most like.
fn nearest(scoring: &Scoring, originals: &[Embedded], generated: &[Embedded]) -> Vec<Nearest> {
    let below = |path: &Path, root: &Path| {
        path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    };
    let mut rows = vec![];
    for Embedded { domain, images } in generated {
        let order =
            Key::new(scoring.seed, 0, &format!("nearest {}", domain.name)).permutation(domain.items.len());
        for &i in order.iter().take(NEAREST_PER_DOMAIN) {
            let all = originals.iter().flat_map(|o| o.domain.items.iter().zip(&o.images.unit));
            let cosines = all.map(|(item, other)| (item, dot(&images.unit[i], other)));
            if let Some((item, cosine)) = cosines.max_by(|a, b| a.1.total_cmp(&b.1)) {
                rows.push(Nearest {
                    generated: below(&domain.items[i].path, &scoring.generated),
                    original: below(&item.path, &scoring.data),
                    cosine: f64::from(cosine),
                });
            }
        }
    }
    rows
}
