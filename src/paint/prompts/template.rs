//! The template writer: prompts from a grammar of phrases, without a language model. Draws depend on a key only, so a prompt does not
//! change when others are added.

use super::words::normal;
use crate::data::rng::Key;
use crate::data::spaced;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The writer's name where the grammar wrote.
pub const TEMPLATE: &str = "template";

/// The plainest prompt.
pub fn plain(class: &str, style: &str) -> String {
    format!("A picture of {class} in the style of {style}.")
}

/// A domain or class: its folder, and its name in prompts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Name of the folder.
    pub folder: String,
    /// The name in prompts.
    pub name: String,
}

/// Phrases for domains and classes, and the templates that join them; the format of `weights/captions.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Grammar {
    domains: Vec<Style>,
    #[serde(default)]
    classes: Vec<Subject>,
    templates: Vec<String>,
    fillers: Vec<String>,
    /// For domains that are not in the list.
    #[serde(default)]
    styles: Vec<String>,
    /// For classes that are not in the list.
    #[serde(default)]
    details: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Style {
    folder: String,
    name: String,
    role: String,
    styles: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Subject {
    folder: String,
    noun: String,
    phrase: String,
    details: Vec<String>,
    /// Kinds of the class, such as breeds; may be empty.
    #[serde(default)]
    concepts: Vec<String>,
}

/// How often a prompt names a concept, where the class has some. Rarer than in the captions that the demo's model learned from: a
/// judge finds the class in nine of ten of its images if the prompt names only the class, in fewer than eight if it names a concept.
const CONCEPT: f32 = 0.25;

impl Grammar {
    /// Well-known visual styles, and phrases that fit any class.
    pub fn general() -> Grammar {
        Grammar::parse("grammar.json", include_str!("grammar.json")).expect("the grammar inside the program")
    }

    /// The captions that the demo's model was trained on.
    pub fn demo() -> Grammar {
        let text = include_str!("../../../weights/captions.json");
        Grammar::parse("captions.json", text).expect("the grammar inside the program")
    }

    /// Reads a grammar; without phrases of its own for what it does not know, it takes the general ones.
    ///
    /// # Errors
    /// A text that is no such JSON; an empty list; a template with an unknown slot, or without class or domain.
    pub fn parse(name: &str, json: &str) -> Result<Grammar> {
        let mut grammar: Grammar =
            serde_json::from_str(json).with_context(|| format!("{name}: not a grammar"))?;
        if grammar.styles.is_empty() || grammar.details.is_empty() {
            let general = Grammar::general();
            (grammar.styles, grammar.details) = (general.styles, general.details);
        }
        let empty = grammar.domains.iter().any(|d| d.styles.is_empty())
            || grammar.classes.iter().any(|c| c.details.is_empty())
            || grammar.templates.is_empty();
        if empty {
            bail!("{name}: a list of styles, details or templates is empty");
        }
        for template in &grammar.templates {
            let mut fillers = 0;
            fill(template, |slot| match slot {
                "filler" => {
                    fillers += 1;
                    Some("")
                }
                "class" | "domain" | "style" | "class_detail" | "concept" => Some(""),
                _ => None,
            })
            .with_context(|| format!("{name}: template {template:?}"))?;
            if !template.contains("{class}") || !template.contains("{domain}") {
                bail!("{name}: template {template:?} lacks {{class}} or {{domain}}");
            }
            if fillers > grammar.fillers.len() {
                bail!("{name}: template {template:?} takes more fillers than there are");
            }
        }
        Ok(grammar)
    }

    /// The name of a domain: its folder's unless the grammar has a better one.
    pub fn domain(&self, folder: &str) -> Label {
        let name = self.style(folder).map_or_else(|| spaced(folder), |d| d.name.clone());
        Label { folder: folder.into(), name }
    }

    /// The name of a class, found in the same way.
    pub fn class(&self, folder: &str) -> Label {
        let name = self.subject(folder).map_or_else(|| spaced(folder), |c| c.noun.clone());
        Label { folder: folder.into(), name }
    }

    /// The domains that a data set may be extended by, those meant for it first.
    pub fn candidates(&self) -> Vec<Label> {
        let (new, known): (Vec<_>, Vec<_>) = self.domains.iter().partition(|d| d.role == "new");
        let label = |d: &Style| Label { folder: d.folder.clone(), name: d.name.clone() };
        new.into_iter().chain(known).map(label).collect()
    }

    /// A prompt of some 40 words that names domain and class, drawn from the stream `key`.
    pub fn prompt(&self, domain: &Label, class: &Label, key: Key) -> String {
        let pick = |i: u32, list: &[String]| list[key.below(i, list.len() as u32) as usize].clone();
        let template = pick(0, &self.templates);
        let style = pick(1, self.style(&domain.folder).map_or(&self.styles, |d| &d.styles));
        let (phrase, detail, concept) = match self.subject(&class.folder) {
            Some(c) => {
                let named = !c.concepts.is_empty() && key.uniform(3) < CONCEPT;
                let concept = if named { pick(4, &c.concepts) } else { c.noun.clone() };
                (c.phrase.clone(), pick(2, &c.details), concept)
            }
            None => (with_article(&class.name), pick(2, &self.details), class.name.clone()),
        };
        // Different fillers: the front of a random order, from the elements 8 and up.
        let mut fillers: Vec<&str> = self.fillers.iter().map(String::as_str).collect();
        let mut next = 0;
        let text = fill(&template, |slot| match slot {
            "class" => Some(&phrase),
            "domain" => Some(&domain.name),
            "style" => Some(&style),
            "class_detail" => Some(&detail),
            "concept" => Some(&concept),
            _ => {
                let drawn = next + key.below(8 + next as u32, (fillers.len() - next) as u32) as usize;
                fillers.swap(next, drawn);
                next += 1;
                Some(fillers[next - 1])
            }
        });
        capitalised(&text.expect("templates are checked when they are read"))
    }

    fn style(&self, folder: &str) -> Option<&Style> {
        let folder = normal(folder);
        self.domains.iter().find(|d| normal(&d.folder) == folder || normal(&d.name) == folder)
    }

    fn subject(&self, folder: &str) -> Option<&Subject> {
        let folder = normal(folder);
        self.classes.iter().find(|c| normal(&c.folder) == folder)
    }
}

/// Puts what `value` says into the `{slots}` of a template, in one pass, so that names with braces stay as they are.
fn fill<'a>(template: &str, mut value: impl FnMut(&str) -> Option<&'a str>) -> Result<String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').context("a { without }")?;
        text += before;
        text += value(slot).with_context(|| format!("unknown slot {{{slot}}}"))?;
        rest = after;
    }
    Ok(text + rest)
}

/// "a dog", "an elephant", and "glasses" for what looks like a plural.
fn with_article(noun: &str) -> String {
    let lower = noun.to_lowercase();
    match () {
        () if lower.ends_with('s') && !lower.ends_with("ss") && !lower.ends_with("us") => noun.to_string(),
        () if lower.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {noun}"),
        () => format!("a {noun}"),
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
