//! `kaleid select`: what becomes of each painted image. CLIP says how well it shows its class and style, how near it is to an original (a
//! copy?) and to another painted image (a twin?); a classifier that was trained on the originals says whether it is right about it, and how
//! sure (FDS, Li et al. 2024, keeps what is right and least sure).
//!
//! Rules turn these numbers into an action, kept in the image's row of `metadata.jsonl` with numbers and reasons. Scores and trainings leave
//! out what is dropped. An image that is painted again is judged again; after the last try it is dropped.

use super::embedded::{Embeds, Image, nearest};
use super::score::Scoring;
use crate::core::Gpu;
use crate::data::chosen::{Action, METADATA, selections, write_selections};
use crate::data::{below, dataset::Item};
use crate::flags;
use crate::train::{self, Training};
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rules: flags of `kaleid select`, and the table `[select]` of run.toml.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// What becomes of an image that a rule is against: keep, flag, drop, or regenerate (in `kaleid run`: painted again with the next
    /// seed). The numbers are recorded in any case.
    #[arg(long, value_enum, default_value = "flag")]
    pub action: Action,
    /// Times that an image is painted again before it is dropped.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub tries: u64,
    /// CLIP must prefer the prompt's class to every other by this much, in cosine; -2 turns the rule off.
    #[arg(long, value_name = "COSINE", default_value_t = 0.0, allow_hyphen_values = true)]
    pub class_margin: f32,
    /// And its style.
    #[arg(long, value_name = "COSINE", default_value_t = 0.0, allow_hyphen_values = true)]
    pub style_margin: f32,
    /// No original of the class may be as like it as this; 2 turns the rule off.
    #[arg(long, value_name = "COSINE", default_value_t = 0.98)]
    pub copy: f32,
    /// Nor any painted image of the class that comes before it.
    #[arg(long, value_name = "COSINE", default_value_t = 0.99)]
    pub twin: f32,
    /// The classifier must find the class.
    #[arg(skip)]
    pub right: bool,
    /// And be no surer than this of a class that it finds: what is easy teaches little. 1 turns the rule off.
    #[arg(skip = 1.0)]
    pub sure: f32,
}

impl Default for Rules {
    fn default() -> Rules {
        flags::parse(&[])
    }
}

impl Rules {
    /// Whether they ask a classifier.
    pub fn classify(&self) -> bool {
        self.right || self.sure < 1.0
    }

    /// Refuses numbers that no cosine and no probability is.
    ///
    /// # Errors
    /// The first such number.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("class_margin", self.class_margin),
            ("style_margin", self.style_margin),
            ("copy", self.copy),
            ("twin", self.twin),
        ] {
            if !(-2.0..=2.0).contains(&value) {
                bail!("{name} = {value}: it must be from -2 to 2");
            }
        }
        if !(0.0..=1.0).contains(&self.sure) {
            bail!("sure = {}: it must be from 0 to 1", self.sure);
        }
        if self.action == Action::Regenerate && self.tries == 0 {
            bail!("tries = 0: action = \"drop\" drops without painting again");
        }
        Ok(())
    }

    /// The rules that are against an image, by name.
    fn against(&self, image: &Selection, twin: bool) -> Vec<String> {
        let sure = image.probability.is_some_and(|p| p > self.sure);
        [
            ("class", image.class_margin < self.class_margin),
            ("style", image.style_margin < self.style_margin),
            ("copy", image.original.as_ref().is_some_and(|near| near.cosine >= self.copy)),
            ("twin", twin),
            ("wrong", self.right && image.right == Some(false)),
            ("sure", image.right == Some(true) && sure),
        ]
        .into_iter()
        .filter(|(_, against)| *against)
        .map(|(name, _)| name.to_string())
        .collect()
    }
}

/// What is known of an image, and what becomes of it: `selection` in its row of `metadata.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// What becomes of it.
    pub action: Action,
    /// The rules that are against it.
    pub reasons: Vec<String>,
    /// How often it was painted again.
    pub tries: u64,
    /// By how much CLIP prefers its class to the best other, in cosine; 2 where there is no other.
    pub class_margin: f32,
    /// By how much it prefers its style.
    pub style_margin: f32,
    /// The original of its class that it is most like.
    pub original: Option<Near>,
    /// The painted image of its class that it is most like.
    pub painted: Option<Near>,
    /// Whether the classifier finds its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
    /// And the probability that it gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f32>,
}

/// Another image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Near {
    /// Below its folder.
    pub file_name: String,
    /// Of their embeddings.
    pub cosine: f32,
}

/// What became of each image of a folder.
///
/// # Errors
/// A metadata.jsonl that holds something else.
pub fn of(images: &Path) -> Result<BTreeMap<String, Selection>> {
    let read = |(name, row)| Ok((name, serde_json::from_value(row)?));
    let all: Result<_> = selections(images)?.into_iter().map(read).collect();
    all.with_context(|| format!("{}: not what a selection writes", images.join(METADATA).display()))
}

/// How often each image of a folder was to be painted again, for those that were.
///
/// # Errors
/// A metadata.jsonl that holds something else.
pub fn tries(images: &Path) -> Result<BTreeMap<String, u64>> {
    let all = selections(images)?;
    Ok(all
        .into_iter()
        .filter_map(|(name, row)| Some((name, row["tries"].as_u64().filter(|&n| n > 0)?)))
        .collect())
}

/// Whether all `count` images of a folder are judged, and none is to be painted again.
///
/// # Errors
/// A metadata.jsonl that holds something else.
pub fn is_done(images: &Path, count: usize) -> Result<bool> {
    let all = selections(images)?;
    Ok(all.len() == count && all.values().all(|row| row["action"] != "regenerate"))
}

/// Judges every generated image by the `rules`, with a classifier that was trained as `classifier` says; the embeddings of those that are
/// left. `paint` paints again what is marked so.
///
/// # Errors
/// As [`Embeds::new`]; files that cannot be written; those of `paint`.
pub fn run(
    gpu: &Gpu,
    scoring: &Scoring,
    rules: &Rules,
    classifier: Option<&Training>,
    paint: &dyn Fn() -> Result<()>,
) -> Result<(Embeds, BTreeMap<String, Selection>)> {
    let mut embeds = Embeds::all(gpu, scoring)?;
    loop {
        let judged = judge(gpu, &mut embeds, scoring, rules, classifier)?;
        let rows = judged.iter().map(|(name, row)| Ok((name.clone(), serde_json::to_value(row)?)));
        write_selections(&scoring.generated, &rows.collect::<Result<BTreeMap<String, Value>>>()?)?;
        let again: BTreeSet<&String> =
            judged.iter().filter(|(_, row)| row.action == Action::Regenerate).map(|(name, _)| name).collect();
        if again.is_empty() {
            let left_out = scoring.left_out()?;
            embeds.retain(|path| !left_out.contains_key(&below(path, &scoring.generated)));
            return Ok((embeds, judged));
        }
        paint()?;
        embeds.renew(|path| again.contains(&below(path, &scoring.generated)))?;
    }
}

/// What becomes of each image, as it is now.
fn judge(
    gpu: &Gpu,
    embeds: &mut Embeds,
    scoring: &Scoring,
    rules: &Rules,
    classifier: Option<&Training>,
) -> Result<BTreeMap<String, Selection>> {
    let (margins, tried) = (embeds.margins(scoring)?, tries(&scoring.generated)?);
    let margins: Vec<_> = margins.into_iter().flatten().collect();
    let [originals, painted] = [&embeds.originals, &embeds.generated]
        .map(|of| of.iter().flat_map(|domain| &domain.images).collect::<Vec<&Image>>());
    let said = classifier.map(|training| {
        let items: Vec<Item> = painted.iter().map(|image| image.item.clone()).collect();
        train::classify(gpu, training, &items)
    });
    let said = said.transpose()?;
    let name = |image: &Image| below(&image.item.path, &scoring.generated);
    let one = |i: usize| {
        let (image, margins) = (painted[i], margins[i]);
        let of_class = |of: &[&'_ Image], root| {
            let own = of.iter().copied().filter(|other| other.item.class == image.item.class);
            nearest(image, own).map(|(item, cosine)| Near { file_name: below(&item.path, root), cosine })
        };
        let before = of_class(&painted[..i], &scoring.generated);
        let probabilities = said.as_ref().map(|said| &said[i]);
        let mut row = Selection {
            action: Action::Keep,
            reasons: vec![],
            tries: tried.get(&name(image)).copied().unwrap_or(0),
            class_margin: margins.class.min(2.0),
            style_margin: margins.style.min(2.0),
            original: of_class(&originals, &scoring.data),
            painted: of_class(&painted, &scoring.generated),
            right: probabilities.map(|p| p.iter().all(|other| *other <= p[image.item.class])),
            probability: probabilities.map(|p| p[image.item.class]),
        };
        row.reasons = rules.against(&row, before.is_some_and(|near| near.cosine >= rules.twin));
        if !row.reasons.is_empty() {
            row.action = match rules.action {
                Action::Regenerate if row.tries >= rules.tries => Action::Drop,
                action => action,
            };
        }
        row.tries += u64::from(row.action == Action::Regenerate);
        (name(image), row)
    };
    let places: Vec<usize> = (0..painted.len()).collect();
    Ok(places.par_iter().map(|&i| one(i)).collect::<Vec<_>>().into_iter().collect())
}

/// A line for people: how many images there are, and what becomes of how many for which reason.
pub fn summary(judged: &BTreeMap<String, Selection>) -> String {
    let (mut actions, mut reasons) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    for row in judged.values() {
        let action = serde_json::to_value(row.action).unwrap_or_default();
        *actions.entry(action.as_str().unwrap_or_default().to_string()).or_default() += 1;
        row.reasons.iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
    }
    let list = |of: Vec<String>| of.join(", ");
    let actions = list(actions.iter().map(|(action, n)| format!("{n} {action}")).collect());
    let reasons = list(reasons.iter().map(|(reason, n)| format!("{reason} {n}")).collect());
    let why = if reasons.is_empty() { String::new() } else { format!(" ({reasons})") };
    format!("selection of {} images: {actions}{why}", judged.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_speaks_for_itself() {
        let near = |cosine| Some(Near { file_name: "a.png".into(), cosine });
        let image = Selection {
            action: Action::Keep,
            reasons: vec![],
            tries: 0,
            class_margin: -0.01,
            style_margin: 0.2,
            original: near(0.985),
            painted: near(0.5),
            right: Some(true),
            probability: Some(0.9),
        };
        let rules = Rules::default();
        assert_eq!(rules.against(&image, false), ["class", "copy"]);
        let off = Rules { class_margin: -2.0, copy: 2.0, ..rules.clone() };
        assert_eq!(off.against(&image, true), ["twin"]);
        let easy = Rules { sure: 0.8, right: true, ..off.clone() };
        assert_eq!(easy.against(&image, false), ["sure"]);
        let wrong = Selection { right: Some(false), probability: Some(0.3), ..image };
        assert_eq!(easy.against(&wrong, false), ["wrong"]);
        assert!(off.against(&wrong, false).is_empty() && !off.classify() && easy.classify());
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let error = |rules: Rules| rules.check().unwrap_err().to_string();
        let rules = Rules::default();
        rules.check().unwrap();
        assert_eq!(error(Rules { copy: 98.0, ..rules.clone() }), "copy = 98: it must be from -2 to 2");
        assert_eq!(error(Rules { sure: f32::NAN, ..rules.clone() }), "sure = NaN: it must be from 0 to 1");
        let again = Rules { action: Action::Regenerate, tries: 0, ..rules };
        assert!(error(again).contains("action = \"drop\""));
    }
}
