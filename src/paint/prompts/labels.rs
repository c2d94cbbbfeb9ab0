//! The domains and classes of a data set by the names that people have for them.

use super::settings::Prompting;
use super::template::{Grammar, Label};
use crate::data::dataset::Dataset;
use crate::data::has_word;
use anyhow::{Result, bail};

/// The names of a data set's classes and domains, and what is wanted of them.
pub struct Labels<'a> {
    pub settings: &'a Prompting,
    pub grammar: &'a Grammar,
    pub classes: Vec<Label>,
    /// The domains that may be learned from, with the number of images of each class.
    pub originals: Vec<(Label, Vec<usize>)>,
    /// The domains for the test, in the same way.
    pub held_out: Vec<(Label, Vec<usize>)>,
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
        Ok(Labels { settings, grammar, classes, originals, held_out })
    }
}
