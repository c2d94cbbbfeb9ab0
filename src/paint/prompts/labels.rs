//! The domains and classes of a data set by the names that people have for them.

use super::settings::Prompting;
use super::template::{Grammar, Label};
use crate::data::dataset::{Dataset, Domain};
use crate::data::{has_word, text};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What stands for the names in a prompt of one's own.
pub const CLASS: &str = "{class}";
pub const DOMAIN: &str = "{domain}";

/// The names of a data set's classes and domains, and what is wanted of them.
pub struct Labels<'a> {
    pub settings: &'a Prompting,
    pub grammar: &'a Grammar,
    pub classes: Vec<Label>,
    /// The domains that may be learned from, with the number of images of each class.
    pub originals: Vec<(Label, Vec<usize>)>,
    /// The domains for the test, in the same way.
    pub held_out: Vec<(Label, Vec<usize>)>,
    /// The originals that may be described, by domain and number of the class; none unless captions are asked for.
    pub shown: BTreeMap<String, Vec<Vec<PathBuf>>>,
    /// Prompts of one's own, with `{class}` and `{domain}` for the names; empty for the grammar's and a model's.
    pub templates: Vec<String>,
}

impl<'a> Labels<'a> {
    /// Lists the data set.
    ///
    /// # Errors
    /// A share out of range, a data set that does not open, a domain that is not there, nothing left to learn from.
    pub fn open(settings: &'a Prompting, grammar: &'a Grammar) -> Result<Labels<'a>> {
        let share = settings.writing.share;
        if !(share > 0.0 && share <= 100.0) {
            bail!("a share of {share}: it must be above 0, and 100 at most");
        }
        let dataset = Dataset::open(&settings.data)?;
        for name in &settings.hold_out {
            dataset.env(name)?;
        }
        let classes: Vec<Label> = dataset.classes.iter().map(|c| grammar.class(c)).collect();
        let domains = dataset.domains.iter().map(|domain| {
            let mut counts = vec![0; classes.len()];
            domain.items.iter().for_each(|item| counts[item.class] += 1);
            (grammar.domain(&domain.name), counts)
        });
        let (held_out, originals): (Vec<_>, Vec<_>) =
            domains.partition(|(label, _)| settings.hold_out.contains(&label.folder));
        let names = originals.iter().map(|(label, _)| label).chain(&classes);
        let wordless: Vec<&str> =
            names.map(|label| label.name.as_str()).filter(|name| !has_word(name)).collect();
        if !wordless.is_empty() {
            let names = wordless.join(", ");
            eprintln!(
                "warning: {names}: no word that could be painted; name the folders after what they show"
            );
        }
        if originals.is_empty() {
            bail!("{}: every domain is held out, so there is none to learn from", settings.data.display());
        }
        let mut shown = BTreeMap::new();
        let may_be_shown = |domain: &&Domain| !settings.hold_out.contains(&domain.name);
        for domain in dataset.domains.iter().filter(may_be_shown).filter(|_| settings.writing.captions) {
            let mut by_class = vec![vec![]; classes.len()];
            domain.items.iter().for_each(|item| by_class[item.class].push(item.path.clone()));
            shown.insert(domain.name.clone(), by_class);
        }
        let templates = settings.writing.templates.as_deref().map(templates).transpose()?.unwrap_or_default();
        Ok(Labels { settings, grammar, classes, originals, held_out, shown, templates })
    }
}

/// The lines of a file of prompts, but for empty ones and those that begin with `#`.
fn templates(file: &Path) -> Result<Vec<String>> {
    let text = text::read(file)?;
    let is_one = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let mut all = vec![];
    for (i, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| is_one(line)) {
        if !(line.contains(CLASS) && line.contains(DOMAIN)) {
            bail!("{}, line {}: a prompt must hold {CLASS} and {DOMAIN}", file.display(), i + 1);
        }
        all.push(line.to_string());
    }
    if all.is_empty() {
        bail!("{}: no prompts in it", file.display());
    }
    Ok(all)
}
