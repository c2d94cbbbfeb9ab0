//! The new domains: those given by hand, or those that a language model names, filled up from the grammar.

use super::chat::{ATTEMPTS, Chat, LanguageModel, Request};
use super::labels::Labels;
use super::names::domain_names;
use super::settings::Writing;
use super::template::{Label, TEMPLATE};
use super::words::{folder_name, mentions, normal};
use crate::data::spaced;
use anyhow::{Result, bail};
use serde::Serialize;

/// Names asked for beyond those needed: some will be domains that are there already, or held out.
const SPARE: usize = 3;

/// A new domain in `domains.json`.
#[derive(Serialize)]
pub struct NewDomain {
    #[serde(flatten)]
    pub label: Label,
    /// `template`, the name of a model, or `user`.
    pub named_by: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
}

impl Labels<'_> {
    /// Asks for new names, unless there is no need.
    pub fn ask_names<M: LanguageModel>(&self, chat: &Chat<M>) -> Result<Vec<Label>> {
        let Writing { new, domains, .. } = &self.settings.writing;
        let mut found: Vec<Label> = vec![];
        if *new > 0 && domains.is_empty() {
            let names: Vec<_> = self.originals.iter().map(|(label, _)| label.name.as_str()).collect();
            let request = format!(
                "My dataset currently has these domains {{{}}}, help me generate a few more related domains. Answer with a \
                 JSON list of {} names of one to three words each, and nothing else.",
                names.join(", "),
                new + SPARE
            );
            let request = Request { text: &request, picture: None };
            let asked = chat.ask(&request, self.settings.seed, ATTEMPTS, |reply| {
                let names = domain_names(reply);
                for name in &names {
                    let label = Label { folder: folder_name(name), name: name.clone() };
                    if found.len() < *new && self.refusal(&label, &found).is_none() {
                        found.push(label);
                    }
                }
                match names.is_empty() {
                    _ if found.len() == *new => Ok(()),
                    true => Err("no names in its reply".into()),
                    false => Err(format!("of its names {} only {} are new", names.join(", "), found.len())),
                }
            })?;
            if let Err(why) = asked.good {
                let lacking = new - found.len();
                eprintln!(
                    "warning: {lacking} of {new} new domains are the template's, since the model gave none ({why})"
                );
            }
        }
        Ok(found)
    }

    /// The new domains: those given by hand, else those that `writer` named, filled up from the grammar.
    pub fn new_domains(&self, writer: &str, named: Vec<Label>) -> Result<Vec<NewDomain>> {
        let mut new: Vec<Label> = named;
        let mut by = vec![(writer, false); new.len()];
        for name in &self.settings.writing.domains {
            let label = Label { folder: folder_name(name), name: spaced(name.trim()) };
            if let Some(why) = self.refusal(&label, &new) {
                bail!("new domain {name:?}: {why}; choose another name");
            }
            new.push(label);
            by.push(("user", false));
        }
        if self.settings.writing.domains.is_empty() {
            for label in self.grammar.candidates() {
                if new.len() < self.settings.writing.new && self.refusal(&label, &new).is_none() {
                    new.push(label);
                    by.push((TEMPLATE, writer != TEMPLATE));
                }
            }
            if new.len() < self.settings.writing.new {
                bail!(
                    "{} new domains: only {} are known here; give the names by --domains",
                    self.settings.writing.new,
                    new.len()
                );
            }
        }
        // The grammar's own name where it knows the style, so that its phrases follow.
        let whole = |(label, (named_by, fallback)): (Label, (&str, bool))| {
            let known =
                self.grammar.candidates().into_iter().find(|k| normal(&k.name) == normal(&label.name));
            let name = known.map_or(label.name, |k| k.name);
            NewDomain { label: Label { folder: label.folder, name }, named_by: named_by.into(), fallback }
        };
        Ok(new.into_iter().zip(by).map(whole).collect())
    }

    /// Why a domain cannot be a new one.
    fn refusal(&self, label: &Label, new: &[Label]) -> Option<String> {
        if label.folder.is_empty() {
            return Some("there is no letter or digit in it".into());
        }
        let same = |other: &Label| {
            [&other.folder, &other.name]
                .iter()
                .any(|n| [normal(&label.folder), normal(&label.name)].contains(&normal(n)))
        };
        let held = self.held_out.iter().map(|(held, _)| held);
        if let Some(held) = held.clone().find(|held| same(held)) {
            return Some(format!("the domain {} is held out", held.folder));
        }
        if let Some(there) = self.originals.iter().map(|(label, _)| label).chain(new).find(|l| same(l)) {
            return Some(format!("there is a domain {} already", there.folder));
        }
        // "pencil sketch" would give the style of a held-out "sketch" away.
        let mut held = held.filter(|_| !self.settings.writing.include_test_style);
        let close =
            held.find(|held| mentions(&label.name, &held.name) || mentions(&label.name, &held.folder));
        close.map(|held| format!("it has the name of the held-out domain {} in it", held.folder))
    }
}
