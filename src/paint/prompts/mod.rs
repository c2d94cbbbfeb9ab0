//! `kaleid prompts`: which new domains there will be, and what every image to come shows. Writes `domains.json` and
//! `prompts.jsonl`, the rows that [`super::generate`] paints.
//!
//! A language model names the domains and describes the images, or a grammar does; the grammar also fills in where a reply is
//! of no use. The domain that is held out for the test is kept from all of it.

mod llm;
mod reply;
mod template;

pub use llm::Server;
pub use template::{Grammar, Label};

use self::llm::{Chat, Local, Model};
use self::reply::{description, domain_names, folder_name, mentions, normal};
use crate::core::GpuOptions;
use crate::data::dataset::Dataset;
use crate::data::rng::Key;
use crate::data::spaced;
use crate::data::write_atomic;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// Requests that a server works on at once.
const IN_FLIGHT: usize = 8;
/// Names asked for beyond those needed: some will be domains that are there already, or held out.
const SPARE: usize = 3;
/// The writer's name where the grammar wrote.
const TEMPLATE: &str = "template";

/// Who writes.
pub enum Llm {
    /// The grammar.
    Template,
    /// A model behind a URL.
    Server(Server),
    /// A model that runs here.
    Local {
        /// Its Hugging Face folder.
        folder: PathBuf,
        /// The adapter.
        gpu: GpuOptions,
    },
}

impl Llm {
    /// From `template`, `openai:MODEL`, a URL, whose model is `model`, or `local:DIR`. Keys come from the environment. Errors
    /// do not repeat `llm`: a URL may hold a secret.
    ///
    /// # Errors
    /// A text that is none of these; a key that is not set.
    pub fn parse(llm: &str, model: Option<String>, gpu: &GpuOptions) -> Result<Llm> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let is_url = llm.starts_with("http://") || llm.starts_with("https://");
        if model.is_some() && !is_url {
            bail!("a model's name goes with a URL; for OpenAI it is openai:MODEL");
        }
        Ok(match llm.split_once(':') {
            None if llm == "template" => Llm::Template,
            Some(("openai", model)) if !model.is_empty() => {
                let (base, key) = (set("OPENAI_BASE_URL"), set("OPENAI_API_KEY"));
                if base.is_none() && key.is_none() {
                    bail!("set OPENAI_API_KEY to your key");
                }
                let base = base.as_deref().unwrap_or("https://api.openai.com/v1");
                Llm::Server(
                    Server::new(base, model, key.as_deref()).context("OPENAI_BASE_URL, OPENAI_API_KEY")?,
                )
            }
            Some(("local", folder)) if !folder.is_empty() => {
                Llm::Local { folder: folder.into(), gpu: gpu.clone() }
            }
            Some(_) if is_url => {
                let key = set("KALEID_LLM_KEY").or_else(|| set("OPENAI_API_KEY"));
                Llm::Server(Server::new(llm, model.as_deref().unwrap_or("default"), key.as_deref())?)
            }
            _ => {
                bail!("must be template, openai:MODEL, a URL such as http://localhost:8080/v1, or local:DIR")
            }
        })
    }
}

/// What to write prompts for.
pub struct Config {
    /// ROOT/DOMAIN/CLASS/image.
    pub data: PathBuf,
    /// Folder for the files.
    pub out: PathBuf,
    /// Domains for the test: no prompt has their style, and no language model hears of them.
    pub hold_out: Vec<String>,
    /// Number of new domains.
    pub new: usize,
    /// Their names, instead of asking for `new` of them.
    pub domains: Vec<String>,
    /// Images to come for each image there is.
    pub share: f64,
    /// Prompts in the held-out style after all.
    pub include_test_style: bool,
    /// Decides every draw.
    pub seed: u64,
    /// Who writes.
    pub llm: Llm,
}

impl Config {
    /// The paper's settings: two new domains, half as many images as there are; written by the template.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            out: out.into(),
            hold_out: vec![],
            new: 2,
            domains: vec![],
            share: 0.5,
            include_test_style: false,
            seed: 0,
            llm: Llm::Template,
        }
    }
}

/// What [`run`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of prompts.
    pub prompts: usize,
    /// Folder names of the new domains.
    pub new_domains: Vec<String>,
    /// Prompts that the template wrote because no reply was of use.
    pub fallbacks: usize,
}

/// A row of `prompts.jsonl`.
#[derive(Serialize)]
struct Row<'a> {
    file_name: String,
    prompt: String,
    seed: u64,
    domain: &'a str,
    class: &'a str,
    written_by: &'a str,
    /// Whether the grammar stepped in for a model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fallback: bool,
}

/// A new domain in `domains.json`.
#[derive(Serialize)]
struct NewDomain {
    #[serde(flatten)]
    label: Label,
    /// `template`, the name of a model, or `user`.
    named_by: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fallback: bool,
}

/// Image number `number` of a domain and class.
struct Image<'a> {
    domain: &'a Label,
    class: &'a Label,
    number: usize,
}

/// Names new domains and writes a prompt for each image to come.
///
/// # Errors
/// A data set that does not open, names that do not fit it, a model that does not reply, Ctrl-C.
pub fn run(config: &Config, grammar: &Grammar) -> Result<Summary> {
    let stage = Stage::open(config, grammar)?;
    match &config.llm {
        Llm::Template => {
            let new = stage.new_domains(TEMPLATE, vec![])?;
            stage.write(TEMPLATE, &new, |images, _| Ok(vec![None; images.len()]))
        }
        Llm::Server(server) => {
            let chat = Chat { model: server, cache: config.out.join("llm_cache") };
            let new = stage.new_domains(server.name(), stage.ask_names(&chat)?)?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(IN_FLIGHT).build()?;
            stage.write(server.name(), &new, |images, progress| {
                pool.install(|| images.par_iter().map(|i| stage.ask_prompt(&chat, i, progress)).collect())
            })
        }
        Llm::Local { folder, gpu } => {
            let model = Local::open(folder, gpu)?;
            let chat = Chat { model: &model, cache: config.out.join("llm_cache") };
            let new = stage.new_domains(model.name(), stage.ask_names(&chat)?)?;
            stage.write(model.name(), &new, |images, progress| {
                images.iter().map(|i| stage.ask_prompt(&chat, i, progress)).collect()
            })
        }
    }
}

/// What is known before anyone is asked.
struct Stage<'a> {
    config: &'a Config,
    grammar: &'a Grammar,
    classes: Vec<Label>,
    /// The domains that may be learnt from, with the number of images of each class.
    originals: Vec<(Label, Vec<usize>)>,
    held_out: Vec<(Label, Vec<usize>)>,
}

impl Stage<'_> {
    fn open<'a>(config: &'a Config, grammar: &'a Grammar) -> Result<Stage<'a>> {
        if !(config.share > 0.0 && config.share <= 100.0) {
            bail!("a share of {}: it must be above 0, and 100 at most", config.share);
        }
        let dataset = Dataset::open(&config.data)?;
        for name in &config.hold_out {
            dataset.env(name)?;
        }
        let classes: Vec<Label> = dataset.classes.iter().map(|c| grammar.class(c)).collect();
        let domains = dataset.domains.iter().map(|domain| {
            let mut counts = vec![0; classes.len()];
            domain.items.iter().for_each(|item| counts[item.class] += 1);
            (grammar.domain(&domain.name), counts)
        });
        let (held_out, originals): (Vec<_>, Vec<_>) =
            domains.partition(|(label, _)| config.hold_out.contains(&label.folder));
        if originals.is_empty() {
            bail!("{}: every domain is held out, so there is none to learn from", config.data.display());
        }
        Ok(Stage { config, grammar, classes, originals, held_out })
    }

    /// Asks for new names, unless there is no need.
    fn ask_names<M: Model>(&self, chat: &Chat<M>) -> Result<Vec<Label>> {
        let Config { new, domains, seed, .. } = self.config;
        let mut found: Vec<Label> = vec![];
        if *new > 0 && domains.is_empty() {
            let names: Vec<_> = self.originals.iter().map(|(label, _)| label.name.as_str()).collect();
            let request = format!(
                "My dataset currently has these domains {{{}}}, help me generate a few more related domains. Answer with a \
                 JSON list of {} names of one to three words each, and nothing else.",
                names.join(", "),
                new + SPARE
            );
            chat.ask(&request, *seed, |reply| {
                for name in domain_names(reply) {
                    let label = Label { folder: folder_name(&name), name };
                    if found.len() < *new && self.refusal(&label, &found).is_none() {
                        found.push(label);
                    }
                }
                (found.len() == *new).then_some(())
            })?;
        }
        Ok(found)
    }

    /// The new domains: those given by hand, else those that `writer` named, filled up from the grammar.
    fn new_domains(&self, writer: &str, named: Vec<Label>) -> Result<Vec<NewDomain>> {
        let mut new: Vec<Label> = named;
        let mut by = vec![(writer, false); new.len()];
        for name in &self.config.domains {
            let label = Label { folder: folder_name(name), name: spaced(name.trim()) };
            if let Some(why) = self.refusal(&label, &new) {
                bail!("new domain {name:?}: {why}; choose another name");
            }
            new.push(label);
            by.push(("user", false));
        }
        if self.config.domains.is_empty() {
            for label in self.grammar.candidates() {
                if new.len() < self.config.new && self.refusal(&label, &new).is_none() {
                    new.push(label);
                    by.push((TEMPLATE, writer != TEMPLATE));
                }
            }
            if new.len() < self.config.new {
                bail!(
                    "{} new domains: only {} are known here; give the names by --domains",
                    self.config.new,
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
        let mut held = held.filter(|_| !self.config.include_test_style);
        let close =
            held.find(|held| mentions(&label.name, &held.name) || mentions(&label.name, &held.folder));
        close.map(|held| format!("it has the name of the held-out domain {} in it", held.folder))
    }

    /// Every image to come, in the order of the files.
    fn images<'a>(&'a self, new: &'a [NewDomain]) -> Vec<Image<'a>> {
        let share = |n: f64| (n * self.config.share).round() as usize;
        let mut domains: Vec<(&Label, Vec<usize>)> = vec![];
        let with_test = self.held_out.iter().filter(|_| self.config.include_test_style);
        for (label, counts) in self.originals.iter().chain(with_test) {
            let total = share(counts.iter().sum::<usize>() as f64);
            domains.push((label, apportion(total, counts)));
        }
        let summed: Vec<usize> = (0..self.classes.len())
            .map(|c| self.originals.iter().map(|(_, counts)| counts[c]).sum())
            .collect();
        let mean = summed.iter().sum::<usize>() as f64 / self.originals.len() as f64;
        domains.extend(new.iter().map(|n| (&n.label, apportion(share(mean), &summed))));
        let mut images = vec![];
        for (domain, counts) in domains {
            for (class, count) in self.classes.iter().zip(counts) {
                images.extend((0..count).map(|number| Image { domain, class, number }));
            }
        }
        images
    }

    /// Writes both files. `describe` gives the prompts that a model wrote; the grammar writes those that are missing.
    fn write(
        &self,
        writer: &str,
        new: &[NewDomain],
        describe: impl FnOnce(&[Image], &Progress) -> Result<Vec<Option<String>>>,
    ) -> Result<Summary> {
        let images = self.images(new);
        if images.is_empty() {
            bail!("a share of {} gives no image; choose a larger one", self.config.share);
        }
        let progress = Progress::new("prompts", images.len() as u64, "prompts");
        let prompts = describe(&images, &progress)?;
        let (mut lines, mut fallbacks) = (String::new(), 0);
        for (image, prompt) in images.iter().zip(prompts) {
            let fallback = prompt.is_none() && writer != TEMPLATE;
            fallbacks += usize::from(fallback);
            let (domain, class) = (&image.domain.folder, &image.class.folder);
            let row = Row {
                file_name: format!("{domain}/{class}/{:05}.png", image.number),
                written_by: if prompt.is_some() { writer } else { TEMPLATE },
                prompt: prompt.unwrap_or_else(|| self.by_template(image)),
                seed: self.seed(image),
                domain,
                class,
                fallback,
            };
            lines += &serde_json::to_string(&row)?;
            lines.push('\n');
        }
        let labels =
            |domains: &[(Label, Vec<usize>)]| domains.iter().map(|d| d.0.clone()).collect::<Vec<_>>();
        let domains = json!({"original": labels(&self.originals), "held_out": labels(&self.held_out), "new": new,
            "written_by": writer});
        write_atomic(self.config.out.join("domains.json"), format!("{domains:#}\n").as_bytes())?;
        write_atomic(self.config.out.join("prompts.jsonl"), lines.as_bytes())?;
        progress.finish();
        let new_domains = new.iter().map(|n| n.label.folder.clone()).collect();
        Ok(Summary { prompts: images.len(), new_domains, fallbacks })
    }

    /// A model's prompt for an image; nothing where none of its replies will do.
    fn ask_prompt<M: Model>(
        &self,
        chat: &Chat<M>,
        image: &Image,
        progress: &Progress,
    ) -> Result<Option<String>> {
        let (class, domain) = (&image.class.name, &image.domain.name);
        let request = format!(
            "'[class_name] = {class}; [domain style] = {domain}'. I want to generate a sentence/description which contains \
             the classname and one of domain styles above. Please make sure the description has a certain degree of variation \
             and with about 40 words."
        );
        let prompt = chat.ask(&request, self.seed(image), |reply| description(reply, class, domain))?;
        progress.inc(1);
        Ok(prompt)
    }

    fn by_template(&self, image: &Image) -> String {
        self.grammar.prompt(image.domain, image.class, self.key(image, "prompt"))
    }

    /// The seed of an image's noise, of 53 bits so that every reader of JSON keeps it whole.
    fn seed(&self, image: &Image) -> u64 {
        let [low, high, ..] = self.key(image, "seed").block(0);
        (u64::from(high) << 32 | u64::from(low)) >> 11
    }

    fn key(&self, image: &Image, purpose: &str) -> Key {
        let purpose = format!("{purpose} {}/{}", image.domain.folder, image.class.folder);
        Key::new(self.config.seed, image.number as u32, &purpose)
    }
}

/// Divides `total` in proportion to `weights`: the largest remainders are rounded up, and each gets one if that is possible.
fn apportion(total: usize, weights: &[usize]) -> Vec<usize> {
    let sum = weights.iter().sum::<usize>().max(1);
    let mut parts: Vec<usize> = weights.iter().map(|w| total * w / sum).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(total * weights[i] % sum));
    let left = total - parts.iter().sum::<usize>();
    order.iter().take(left).for_each(|&i| parts[i] += 1);
    while let Some(empty) = parts.iter().position(|&n| n == 0) {
        // The first of the largest.
        let Some(most) = (0..parts.len()).rev().max_by_key(|&i| parts[i]).filter(|&i| parts[i] > 1) else {
            break;
        };
        parts[most] -= 1;
        parts[empty] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::apportion;

    #[test]
    fn totals_are_exact_and_no_class_goes_without() {
        assert_eq!(apportion(10, &[10, 10]), [5, 5]);
        assert_eq!(apportion(7, &[10, 10, 1]), [3, 3, 1]);
        assert_eq!(apportion(10, &[98, 1, 1]), [8, 1, 1]);
        assert_eq!(apportion(2, &[5, 5, 5]), [1, 1, 0]);
        assert_eq!(apportion(3, &[1000, 1, 1]), [1, 1, 1]);
        assert_eq!(apportion(0, &[1, 2]), [0, 0]);
    }
}
