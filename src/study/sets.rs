//! The sets of painted images of a run: the one that it is about, and those that arms compare it with.

use super::stages::Run;
use crate::data::text;
use crate::paint::origins;
use crate::paint::picture::{Picture, read_pictures};
use crate::paint::prompts::plain;
use crate::train::Variant;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The folders of the sets of painted images that a run may have.
pub const SETS: [&str; 3] = ["images", "plain", "img2img"];

/// A set of painted images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// By the prompts that were written.
    Written,
    /// The same images to come, with one plain template in place of their prompts.
    Plain,
    /// The same prompts, painted from originals.
    FromOriginals,
}

impl Set {
    /// The painted images that a variant trains on.
    pub fn of(variant: Variant) -> Option<Set> {
        match variant {
            Variant::O | Variant::Retrieval => None,
            Variant::Plain => Some(Set::Plain),
            Variant::Img2img => Some(Set::FromOriginals),
            _ => Some(Set::Written),
        }
    }
}

impl Run<'_> {
    /// The sets that the run paints.
    pub fn sets(&self) -> Vec<Set> {
        let variants = self.study.compare.variants.iter();
        let mut sets: Vec<Set> =
            [Set::Written].into_iter().chain(variants.filter_map(|&v| Set::of(v))).collect();
        sets.sort();
        sets.dedup();
        sets
    }

    /// The folder of a set's images.
    pub fn folder(&self, set: Set) -> PathBuf {
        self.out.join(SETS[set as usize])
    }

    /// The pictures of a set, with the seeds of those that were to be painted again.
    ///
    /// # Errors
    /// Files of the run, or a data set, that cannot be read.
    pub fn pictures(&self, set: Set) -> Result<Vec<Picture>> {
        let mut pictures = read_pictures(&self.out.join("prompts.jsonl"))?;
        match set {
            Set::Written => {}
            Set::Plain => {
                let styles = self.names()?;
                for picture in &mut pictures {
                    let [class, domain] =
                        [&picture.class, &picture.domain].map(|n| n.as_deref().unwrap_or(""));
                    let style = styles.get(domain).map_or(domain, |name| name);
                    picture.prompt = plain(&self.grammar.class(class).name, style);
                    picture.described = None;
                }
            }
            Set::FromOriginals => origins::assign(
                &mut pictures,
                &self.data,
                &self.study.test_domains.held_out(),
                self.study.seed,
            )?,
        }
        let tries = super::select::tries(&self.folder(set))?;
        for picture in &mut pictures {
            let again = tries.get(&picture.file_name).copied().unwrap_or(0);
            picture.seed = picture.seed.map(|seed| seed.wrapping_add(again));
        }
        Ok(pictures)
    }

    /// What texts call the domains, by their folders.
    ///
    /// # Errors
    /// A domains.json that is not what a run writes.
    pub fn names(&self) -> Result<BTreeMap<String, String>> {
        let file = self.out.join("domains.json");
        let says: Value = text::json(&text::read(&file)?).with_context(|| file.display().to_string())?;
        let labels = ["original", "new"].into_iter().filter_map(|key| says[key].as_array()).flatten();
        let name = |label: &Value| {
            Some((label["folder"].as_str()?.to_string(), label["name"].as_str()?.to_string()))
        };
        Ok(labels.filter_map(name).collect())
    }
}
