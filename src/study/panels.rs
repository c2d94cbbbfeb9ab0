//! `embedding.svg`, the paper's figure 5: all images on a plane by their CLIP embeddings, in four panels: the originals; with images
//! generated in their styles; with new domains; with both. (The paper's plane is UMAP's, this one t-SNE's.)

use super::embedded::{Embedded, Image};
use super::tsne::{self, PERPLEXITY, STEPS};
use crate::data::rng::Key;
use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

/// Images that are shown: every pair of them is looked at in every step.
const MOST: usize = 1000;

/// How the plane was found, in words.
pub fn method(images: usize) -> String {
    let shown = match images > MOST {
        true => format!("{MOST} images drawn from {images}"),
        false => format!("all {images} images"),
    };
    format!("t-SNE of CLIP's embeddings of length 1 ({shown}, exact, perplexity {PERPLEXITY}, {STEPS} steps)")
}

/// A dot.
struct Dot {
    place: [f64; 2],
    /// Its domain, among all names.
    domain: usize,
    /// 0: an original; 1: generated in the style of originals; 2: in a new domain.
    kind: usize,
}

/// The picture; `seed` decides which images are shown and where they start.
///
/// # Errors
/// None that we know of: it is drawn in memory.
pub fn svg(originals: &[Embedded], generated: &[Embedded], seed: u64) -> Result<String> {
    let mut names: Vec<&str> = vec![];
    for domain in originals.iter().chain(generated) {
        if !names.contains(&&domain.name[..]) {
            names.push(&domain.name);
        }
    }
    let mut all: Vec<(&Image, usize, usize)> = vec![];
    for (domains, made) in [(originals, false), (generated, true)] {
        for domain in domains {
            let kind =
                usize::from(made) + usize::from(made && !originals.iter().any(|o| o.name == domain.name));
            let name = names.iter().position(|name| *name == domain.name).unwrap_or(0);
            all.extend(domain.images.iter().map(|image| (image, name, kind)));
        }
    }
    let mut shown = Key::new(seed, 0, "panels").permutation(all.len());
    shown.truncate(MOST);
    shown.sort_unstable();
    let rows: Vec<&[f32]> = shown.iter().map(|&i| &all[i].0.unit[..]).collect();
    let places = tsne::plane(&rows, seed);
    let dot = |(&i, place): (&usize, [f64; 2])| Dot { place, domain: all[i].1, kind: all[i].2 };
    let dots: Vec<Dot> = shown.iter().zip(places).map(dot).collect();
    let mut svg = String::new();
    let drawn = draw(&mut svg, &dots, &names);
    drawn.map_err(|e| anyhow!("{e}")).context("cannot draw embedding.svg")?;
    Ok(svg)
}

fn draw(svg: &mut String, dots: &[Dot], names: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let lines = names.len().div_ceil(4) as u32;
    let area = SVGBackend::with_string(svg, (640, 640 + 22 * lines)).into_drawing_area();
    area.fill(&WHITE)?;
    let (top, legend) = area.split_vertically(640);
    let range = |k: usize| {
        let all = || dots.iter().map(|dot| dot.place[k]);
        let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        let margin = 0.03 * (high - low).max(1e-9);
        low - margin..high + margin
    };
    let panels: [(&str, &[usize]); 4] = [
        ("originals", &[0]),
        ("and generated in their styles", &[0, 1]),
        ("originals and new domains", &[0, 2]),
        ("all", &[0, 1, 2]),
    ];
    for (panel, (title, kinds)) in top.split_evenly((2, 2)).iter().zip(panels) {
        let mut chart = ChartBuilder::on(panel)
            .margin(8)
            .caption(title, ("sans-serif", 15))
            .build_cartesian_2d(range(0), range(1))?;
        chart.configure_mesh().disable_mesh().disable_axes().draw()?;
        chart.plotting_area().strip_coord_spec().draw(&Rectangle::new(
            [(0, 0), chart.plotting_area().dim_in_pixel()].map(|(x, y)| (x as i32, y as i32)),
            RGBColor(200, 200, 200),
        ))?;
        let own = dots.iter().filter(|dot| kinds.contains(&dot.kind));
        // Originals are full, what is generated is hollow.
        chart.draw_series(own.map(|dot| {
            let colour = Palette99::pick(dot.domain);
            let style = if dot.kind == 0 { colour.filled() } else { colour.stroke_width(1) };
            Circle::new((dot.place[0], dot.place[1]), 2, style)
        }))?;
    }
    for (i, name) in names.iter().enumerate() {
        let (x, y) = (12 + 157 * (i % 4) as i32, 8 + 22 * (i / 4) as i32);
        legend.draw(&Circle::new((x, y), 4, Palette99::pick(i).filled()))?;
        legend.draw(&Text::new(name.to_string(), (x + 9, y - 6), ("sans-serif", 13)))?;
    }
    area.present()?;
    Ok(())
}
