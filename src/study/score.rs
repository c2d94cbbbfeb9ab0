//! How much diversity generated images add, as "Language-guided diffusion for domain generalization" measures it: embed
//! everything with CLIP, and for s = 10 % .. 100 % join s x |D| generated images to each original domain D of |D| images.
//! (Where fewer images were generated, ten amounts up to those there are.)
//!
//! ```text
//! Score(s) = mean over original domains of the variance of the embeddings inside the domain
//! ```
//!
//! A cubic through Score(s) gives the optimum: its maximum inside the range, else the better end. What a generated image
//! shows is checked by CLIP as well: is the class, and is the style, that its prompt asked for the likeliest of all?

use super::demo;
use crate::core::Gpu;
use crate::data::dataset::{Dataset, Domain, Item, load};
use crate::data::image::Rgb;
use crate::data::rng::Key;
use crate::data::spaced;
use crate::data::write_atomic;
use crate::engines::clip::{ClipEmbedder, ImageEmbeds};
use crate::flags;
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Steps of s.
const STEPS: usize = 10;
/// Score(s) is a mean over this many orders in which the generated images join.
const ORDERS: u32 = 8;
/// Images whose nearest original is recorded, a few of every domain.
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
    /// Score(0): the originals alone.
    pub originals: f64,
    /// (s, Score(s)) for ten amounts up to 100 %, or to the images there are.
    pub points: Vec<(f64, f64)>,
    /// Score(s) ~ c0 + c1 s + c2 s^2 + c3 s^3.
    pub cubic: [f64; 4],
    /// Where the cubic is largest.
    pub optimum: Optimum,
    /// Each domain.
    pub domains: BTreeMap<String, DomainDiversity>,
    /// Share of generated images whose likeliest class (style) by CLIP is the one that their prompt named.
    pub class_agreement: f64,
    /// See `class_agreement`.
    pub style_agreement: f64,
    /// A few generated images and the original each is most like.
    pub nearest: Vec<Nearest>,
}

/// The best amount.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimum {
    /// The amount.
    pub s: f64,
    /// The cubic there.
    pub score: f64,
    /// Whether it is a maximum inside the range; else the better end.
    pub interior: bool,
}

impl std::fmt::Display for Optimum {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let kind = if self.interior { "a maximum inside the range" } else { "the better end of the range" };
        write!(f, "{:.1} %, {kind}", 100.0 * self.s)
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

/// Measures, and writes diversity.json and diversity.svg into `out`.
///
/// # Errors
/// Data, images or a CLIP that do not work; a folder that cannot be written; Ctrl-C.
pub fn run(gpu: &Gpu, config: &Scoring, out: &Path) -> Result<Diversity> {
    let clip = &demo::folder(&config.measure.clip, "clip");
    let data = Dataset::open(&config.data)?;
    for name in &config.hold_out {
        data.env(name)?;
    }
    let originals: Vec<&Domain> =
        data.domains.iter().filter(|d| !config.hold_out.contains(&d.name)).collect();
    let generated = Dataset::added(&config.generated, &data.classes)?;
    if generated.is_empty() {
        bail!("{}: no generated images, DOMAIN/CLASS/image", config.generated.display());
    }
    if !originals.iter().any(|d| generated.iter().any(|g| g.name == d.name)) {
        let names: Vec<&str> = originals.iter().map(|d| d.name.as_str()).collect();
        let place = config.generated.display();
        bail!(
            "{place}: no images in the style of an original domain ({}): Score(s) needs them",
            names.join(", ")
        );
    }

    let mut clip_model = ClipEmbedder::open(gpu, clip, gpu.caps().weights())?;
    let count = |domains: &mut dyn Iterator<Item = &Domain>| domains.map(|d| d.items.len()).sum::<usize>();
    let total = count(&mut originals.iter().copied()) + count(&mut generated.iter());
    let progress = Progress::new("score", total as u64, "images");
    let mut embed = |items: &[Item]| -> Result<ImageEmbeds> {
        let mut embedded = ImageEmbeds::default();
        // A part at a time, so that neither memory nor the wait for Ctrl-C grows with the data set.
        for part in items.chunks(64) {
            bail_if_stopped()?;
            let images: Vec<Rgb> = load(part, || {})?;
            let part_embedded = clip_model.images(&images)?;
            embedded.unit.extend(part_embedded.unit);
            embedded.raw.extend(part_embedded.raw);
            progress.inc(part.len() as u64);
        }
        Ok(embedded)
    };
    let of_originals = originals.iter().map(|d| embed(&d.items)).collect::<Result<Vec<_>>>()?;
    let of_generated = generated.iter().map(|d| embed(&d.items)).collect::<Result<Vec<_>>>()?;
    progress.finish();

    let variance = |rows: &[&[f32]]| variance(rows, config.measure.trace);
    let all = |e: &ImageEmbeds| variance(&rows(e, config));
    let words = |name: &String| spaced(config.names.get(name).unwrap_or(name));
    let styles: Vec<String> = generated.iter().map(|d| words(&d.name)).collect();
    let classes: Vec<String> = data.classes.iter().map(words).collect();
    let agreement = agreement(&mut clip_model, &classes, &styles, &generated, &of_generated)?;

    let mut domains: BTreeMap<String, DomainDiversity> = BTreeMap::new();
    for (domain, embedded) in originals.iter().zip(&of_originals) {
        let entry = DomainDiversity {
            originals: domain.items.len(),
            variance_of_originals: Some(all(embedded)),
            ..Default::default()
        };
        domains.insert(domain.name.clone(), entry);
    }
    for ((domain, embedded), share) in generated.iter().zip(&of_generated).zip(&agreement) {
        let entry = domains.entry(domain.name.clone()).or_default();
        entry.generated = domain.items.len();
        entry.variance_of_generated = Some(all(embedded));
        [entry.class_agreement, entry.style_agreement] =
            share.map(|right| Some(right as f64 / domain.items.len() as f64));
    }

    let pairs: Vec<(Vec<&[f32]>, Vec<&[f32]>)> = originals
        .iter()
        .zip(&of_originals)
        .filter_map(|(domain, embedded)| {
            let own = generated.iter().position(|g| g.name == domain.name)?;
            Some((rows(embedded, config), rows(&of_generated[own], config)))
        })
        .collect();
    let most = pairs.iter().map(|(own, more)| more.len() as f64 / own.len() as f64).fold(1.0, f64::min);
    let points: Vec<(f64, f64)> =
        (1..=STEPS).map(|i| most * i as f64 / STEPS as f64).map(|s| (s, score(&pairs, s, config))).collect();
    let cubic = fit_cubic(&points);
    let images = generated.iter().map(|d| d.items.len()).sum::<usize>() as f64;
    let [class_agreement, style_agreement] =
        [0, 1].map(|k| agreement.iter().map(|a| a[k]).sum::<usize>() as f64 / images);
    let form = match (config.measure.trace, config.measure.unnormalised) {
        (false, false) => "mean over dimensions of the biased variance of embeddings of length 1",
        (true, false) => "sum over dimensions of the biased variance of embeddings of length 1",
        (false, true) => "mean over dimensions of the biased variance of unnormalised embeddings",
        (true, true) => "sum over dimensions of the biased variance of unnormalised embeddings",
    };
    let diversity = Diversity {
        form: form.into(),
        clip: clip.name("").trim_end_matches('/').to_string(),
        width: clip_model.width(),
        originals: mean(&pairs.iter().map(|(own, _)| variance(own)).collect::<Vec<_>>()),
        optimum: optimum(cubic, [most / STEPS as f64, most]),
        points,
        cubic,
        domains,
        class_agreement,
        style_agreement,
        nearest: nearest(config, &originals, &of_originals, &generated, &of_generated),
    };
    // The picture first: a folder with diversity.json holds both.
    write_atomic(out.join("diversity.svg"), chart(&diversity)?.as_bytes())?;
    let json = serde_json::to_string_pretty(&diversity)? + "\n";
    write_atomic(out.join("diversity.json"), json.as_bytes())?;
    Ok(diversity)
}

/// The embeddings that variances are taken of.
fn rows<'a>(embedded: &'a ImageEmbeds, config: &Scoring) -> Vec<&'a [f32]> {
    let rows = if config.measure.unnormalised { &embedded.raw } else { &embedded.unit };
    rows.iter().map(Vec::as_slice).collect()
}

/// Biased variance of rows: mean, or with `trace` sum, over their dimensions.
fn variance(rows: &[&[f32]], trace: bool) -> f64 {
    let Some(width) = rows.first().map(|r| r.len()) else { return 0.0 };
    let n = rows.len() as f64;
    let one = |d: usize| {
        let mean = rows.iter().map(|r| f64::from(r[d])).sum::<f64>() / n;
        rows.iter().map(|r| (f64::from(r[d]) - mean).powi(2)).sum::<f64>() / n
    };
    (0..width).map(one).sum::<f64>() / if trace { 1.0 } else { width as f64 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Generated images that join a domain of `originals` at s.
fn amount(s: f64, originals: usize) -> usize {
    (s * originals as f64).round() as usize
}

/// Score(s) of domains (originals, generated images in their style).
fn score(pairs: &[(Vec<&[f32]>, Vec<&[f32]>)], s: f64, config: &Scoring) -> f64 {
    let domain = |d: usize, order: u32| {
        let (own, more) = &pairs[d];
        let order = Key::new(config.seed, order, &format!("score {d}")).permutation(more.len());
        let joined = order[..amount(s, own.len())].iter().map(|&i| more[i]);
        variance(&own.iter().copied().chain(joined).collect::<Vec<_>>(), config.measure.trace)
    };
    let mean_of = |order: u32| mean(&(0..pairs.len()).map(|d| domain(d, order)).collect::<Vec<_>>());
    mean(&(0..ORDERS).map(mean_of).collect::<Vec<_>>())
}

/// Least squares through at least four points: coefficients of 1, s, s^2, s^3.
fn fit_cubic(points: &[(f64, f64)]) -> [f64; 4] {
    // Normal equations, by elimination: they are positive definite, so that no pivot is zero. s is scaled to 1 at most.
    let scale = points.iter().fold(0.0, |most: f64, (s, _)| most.max(*s));
    let mut m = [[0.0; 5]; 4];
    for (row, equation) in m.iter_mut().enumerate() {
        for (column, cell) in equation.iter_mut().enumerate() {
            let term = |(s, y): &(f64, f64)| {
                let s = s / scale;
                s.powi(row as i32) * if column == 4 { *y } else { s.powi(column as i32) }
            };
            *cell = points.iter().map(term).sum();
        }
    }
    for column in 0..4 {
        let own = m[column];
        for (_, equation) in m.iter_mut().enumerate().filter(|(row, _)| *row != column) {
            let factor = equation[column] / own[column];
            equation.iter_mut().zip(own).for_each(|(cell, own)| *cell -= factor * own);
        }
    }
    [0, 1, 2, 3].map(|i| m[i][4] / m[i][i] / scale.powi(i as i32))
}

fn cubic_at(c: [f64; 4], s: f64) -> f64 {
    c[0] + s * (c[1] + s * (c[2] + s * c[3]))
}

/// The maximum of a cubic inside `range`, else the better end.
fn optimum(c: [f64; 4], range: [f64; 2]) -> Optimum {
    let at = |s: f64, interior: bool| Optimum { s, score: cubic_at(c, s), interior };
    // Roots of c1 + 2 c2 s + 3 c3 s^2; at a maximum the slope falls.
    let (a, b) = (3.0 * c[3], 2.0 * c[2]);
    let root = (b * b - 4.0 * a * c[1]).sqrt();
    let roots =
        if a == 0.0 { vec![-c[1] / b] } else { vec![(-b - root) / (2.0 * a), (-b + root) / (2.0 * a)] };
    let inside = |s: &f64| *s > range[0] && *s < range[1] && b + 2.0 * a * s < 0.0;
    let ends = range.map(|s| at(s, false));
    roots.into_iter().filter(inside).map(|s| at(s, true)).next().unwrap_or(if ends[1].score > ends[0].score {
        ends[1]
    } else {
        ends[0]
    })
}

/// Of every generated domain, how many images CLIP finds the right class, and the right style, in.
fn agreement(
    clip: &mut ClipEmbedder,
    classes: &[String],
    styles: &[String],
    generated: &[Domain],
    embedded: &[ImageEmbeds],
) -> Result<Vec<[usize; 2]>> {
    let pairs = styles.iter().flat_map(|style| classes.iter().map(move |class| (style, class)));
    let texts: Vec<String> =
        pairs.map(|(style, class)| format!("A picture of {class} in the style of {style}.")).collect();
    let texts = clip.texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut right = vec![[0, 0]; generated.len()];
    for (style, (domain, embedded)) in generated.iter().zip(embedded).enumerate() {
        for (item, image) in domain.items.iter().zip(&embedded.unit) {
            // Each class by its best style, each style by its best class.
            let (mut by_class, mut by_style) = (vec![f32::MIN; classes.len()], vec![f32::MIN; styles.len()]);
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
fn nearest(
    config: &Scoring,
    originals: &[&Domain],
    of_originals: &[ImageEmbeds],
    generated: &[Domain],
    of_generated: &[ImageEmbeds],
) -> Vec<Nearest> {
    let below = |path: &Path, root: &Path| {
        path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    };
    let mut rows = vec![];
    for (domain, embedded) in generated.iter().zip(of_generated) {
        let order =
            Key::new(config.seed, 0, &format!("nearest {}", domain.name)).permutation(domain.items.len());
        for &i in order.iter().take(NEAREST_PER_DOMAIN) {
            let all = originals.iter().zip(of_originals).flat_map(|(d, e)| d.items.iter().zip(&e.unit));
            let closest = all
                .map(|(item, other)| (item, dot(&embedded.unit[i], other)))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((item, cosine)) = closest {
                rows.push(Nearest {
                    generated: below(&domain.items[i].path, &config.generated),
                    original: below(&item.path, &config.data),
                    cosine: f64::from(cosine),
                });
            }
        }
    }
    rows
}

/// Score(s), the cubic, and its optimum.
fn chart(d: &Diversity) -> Result<String> {
    use plotters::prelude::*;
    let mut svg = String::new();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut svg, (640, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let [from, to] = [d.points[0].0, d.points[STEPS - 1].0];
        let along = (0..=100).map(|i| from + (to - from) * f64::from(i) / 100.0);
        let curve: Vec<(f64, f64)> = along.map(|s| (100.0 * s, cubic_at(d.cubic, s))).collect();
        let points: Vec<(f64, f64)> = d.points.iter().map(|(s, y)| (100.0 * s, *y)).collect();
        let all = || points.iter().chain(&curve).map(|p| p.1).chain([d.originals]);
        let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        let margin = ((high - low) * 0.1).max(high.abs() * 1e-6).max(1e-12);
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..105.0 * to, low - margin..high + margin)?;
        chart
            .configure_mesh()
            .x_desc("generated images, % of the originals")
            .y_desc("Score(s)")
            .y_label_formatter(&|y| format!("{y:.3e}"))
            .light_line_style(WHITE)
            .draw()?;
        let blue = RGBColor(40, 90, 170);
        chart.draw_series(LineSeries::new(curve, blue.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|&p| Circle::new(p, 4, blue.filled())))?;
        chart.draw_series([Circle::new((0.0, d.originals), 4, BLACK.stroke_width(1))])?;
        let (best, red) = (100.0 * d.optimum.s, RGBColor(190, 50, 40));
        chart.draw_series(LineSeries::new(
            [(best, low - margin), (best, d.optimum.score)],
            red.stroke_width(1),
        ))?;
        let place = (if d.optimum.s > 0.7 * to { best - 22.0 * to } else { best + to }, low);
        let font = ("sans-serif", 14).into_font().color(&red);
        chart.draw_series([Text::new(format!("optimum {best:.1} %"), place, font)])?;
        area.present()?;
        Ok(())
    };
    let drawn = { drawn }();
    drawn.map_err(|e| anyhow::anyhow!("{e}")).context("cannot draw diversity.svg")?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cubic_is_found_again_with_its_maximum() {
        let c = [0.2, 1.0, -0.5, -0.3];
        let points: Vec<_> = (1..=10).map(|i| f64::from(i) / 10.0).map(|s| (s, cubic_at(c, s))).collect();
        let fit = fit_cubic(&points);
        assert!(fit.iter().zip(c).all(|(a, b)| (a - b).abs() < 1e-9), "{fit:?}");
        let best = optimum(fit, [0.1, 1.0]);
        // Slope 1 - s - 0.9 s^2 is zero at 0.6359.
        assert!(best.interior && (best.s - 0.635_9).abs() < 1e-4, "{best:?}");
        let rising = optimum([0.0, 1.0, 0.0, 0.0], [0.1, 1.0]);
        assert_eq!((rising.s, rising.interior), (1.0, false));
    }

    #[test]
    fn variance_is_that_of_its_definition() {
        let rows: [&[f32]; 3] = [&[1.0, 0.0], &[2.0, 0.0], &[6.0, 3.0]];
        // Of 1, 2, 6: mean 3, variance 14 / 3; of 0, 0, 3: 2.
        assert!((variance(&rows, true) - (14.0 / 3.0 + 2.0)).abs() < 1e-12);
        assert!((variance(&rows, false) - (14.0 / 3.0 + 2.0) / 2.0).abs() < 1e-12);
    }
}
