//! What a study is: the TOML file of `kaleid run`, with the paper's and DomainBed's defaults.

use super::score::Measure;
use super::select::Rules;
use crate::domainbed;
use crate::engines::options::Options;
use crate::paint::prompts::Writing;
use crate::train::{Settings, Variant};
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

/// What to run: the TOML file. What it leaves out is as the paper and DomainBed have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// ROOT/DOMAIN/CLASS/image; `builtin` is the demo's.
    pub data: PathBuf,
    /// Which domains are only tested on.
    pub test_domains: TestDomains,
    /// Decides every draw.
    #[serde(default)]
    pub seed: u64,
    /// New domains, and a prompt for every image.
    #[serde(default)]
    pub prompts: Writing,
    /// How images are painted.
    #[serde(default)]
    pub images: Options,
    /// Which of them count.
    #[serde(default)]
    pub select: Rules,
    /// How diversity is measured.
    #[serde(default)]
    pub score: Measure,
    /// Which trainings are compared.
    #[serde(default)]
    pub compare: Compare,
    /// How each of them is trained.
    #[serde(default)]
    pub train: Settings,
}

/// Which domains are only tested on. In TOML: a name or a list of them, each tested on by trainings of its own, `each` of the data set's, or
/// `single-source`, where each is trained on by itself and all others are tested on.
#[derive(Clone, Debug, PartialEq)]
pub enum TestDomains {
    /// These, one at a time.
    These(Vec<String>),
    /// All, one at a time.
    Each,
    /// All but one.
    SingleSource,
}

impl TestDomains {
    const EACH: &str = "each";
    const SINGLE_SOURCE: &str = "single-source";

    /// What each training is tested on: some of the `domains` of its data set.
    ///
    /// # Errors
    /// A name that is none of these; nothing to train on.
    pub fn targets(&self, domains: &[String]) -> Result<Vec<Vec<String>>> {
        if domains.len() < 2 {
            bail!("a data set of {} domains: it takes one to train on and one to test on", domains.len());
        }
        if let TestDomains::These(names) = self {
            if let Some(name) = names.iter().find(|name| !domains.contains(name)) {
                bail!("test_domains: no domain {name}: there are {}", domains.join(", "));
            }
            if let Some((_, name)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
                bail!("test_domains: {name} is there twice");
            }
        }
        let without = |source: &String| domains.iter().filter(|d| *d != source).cloned().collect();
        Ok(match self {
            TestDomains::These(names) => names.iter().map(|name| vec![name.clone()]).collect(),
            TestDomains::Each => domains.iter().map(|name| vec![name.clone()]).collect(),
            TestDomains::SingleSource => domains.iter().map(without).collect(),
        })
    }

    /// What no training may see: the one domain, where all are tested on the same.
    pub fn held_out(&self) -> Vec<String> {
        match self {
            TestDomains::These(names) if names.len() == 1 => names.clone(),
            _ => vec![],
        }
    }
}

impl<'de> Deserialize<'de> for TestDomains {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<TestDomains, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            One(String),
            Several(Vec<String>),
        }
        Ok(match Given::deserialize(deserializer)? {
            Given::One(word) if word == TestDomains::EACH => TestDomains::Each,
            Given::One(word) if word == TestDomains::SINGLE_SOURCE => TestDomains::SingleSource,
            Given::One(name) => TestDomains::These(vec![name]),
            Given::Several(names) if names.is_empty() => {
                return Err(serde::de::Error::custom("test_domains is an empty list"));
            }
            Given::Several(names) => TestDomains::These(names),
        })
    }
}

impl Serialize for TestDomains {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TestDomains::Each => serializer.serialize_str(TestDomains::EACH),
            TestDomains::SingleSource => serializer.serialize_str(TestDomains::SINGLE_SOURCE),
            // A domain that is called like a word stays one in a list.
            TestDomains::These(names) => match &names[..] {
                [one] if ![TestDomains::EACH, TestDomains::SINGLE_SOURCE].contains(&one.as_str()) => {
                    serializer.serialize_str(one)
                }
                _ => serializer.collect_seq(names),
            },
        }
    }
}

/// `[compare]`: each algorithm is trained on each variant with each seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compare {
    /// DomainBed's names.
    pub algorithms: Vec<String>,
    /// Which images are trained on: o, q, d, qd, d-only, qd-only, qd-all, plain, img2img, retrieval.
    pub variants: Vec<Variant>,
    /// The images of the variant `retrieval`: DIR/DOMAIN/CLASS/image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<PathBuf>,
    /// Number of trainings of each algorithm and variant, which differ in their split and draws.
    pub seeds: u64,
}

impl Default for Compare {
    fn default() -> Self {
        Compare {
            algorithms: vec!["ERM".into()],
            variants: vec![Variant::O, Variant::Qd],
            retrieval: None,
            seeds: 3,
        }
    }
}

impl Study {
    /// Reads a TOML text; `name` is what errors call it.
    ///
    /// # Errors
    /// A text that is no TOML, an unknown key, a value that cannot be; with its line.
    pub fn parse(text: &str, name: &str) -> Result<Study> {
        let read = DeTable::parse(text).and_then(from_table);
        let study = read.map_err(|e| {
            let line = 1 + e.span().map_or(0, |span| text[..span.start].matches('\n').count());
            anyhow!("{name}, line {line}: {}", explain(e.message()))
        })?;
        study.check().with_context(|| name.to_string())?;
        Ok(study)
    }

    /// The demo's configuration.
    ///
    /// # Errors
    /// None, as a test shows.
    pub fn demo() -> Result<Study> {
        Study::parse(include_str!("demo.toml"), "demo.toml")
    }

    /// The same with single values replaced: each of `changes` is `key=value` or `table.key=value`, with a value as TOML has it, or a
    /// string without quotes.
    ///
    /// # Errors
    /// A change that is none, an unknown key, a value that cannot be.
    pub fn with(mut self, changes: &[String]) -> Result<Study> {
        for change in changes {
            self = self.changed(change).map_err(|why| anyhow!("{change}: {why:#}"))?;
        }
        self.check()?;
        Ok(self)
    }

    fn changed(&self, change: &str) -> Result<Study> {
        let Some((path, value)) = change.split_once('=') else {
            bail!("give KEY=VALUE, such as train.steps=100");
        };
        let text = toml::to_string(self)?;
        let with = |value: Spanned<DeValue>| -> Result<Study, toml::de::Error> {
            let mut table = DeTable::parse(&text)?;
            insert(table.get_mut(), path, value);
            from_table(table)
        };
        // What is no string is tried as one, too: `test_domain=2020`.
        let string = || with(Spanned::new(0..0, DeValue::String(value.into())));
        let changed = match DeValue::parse(value) {
            Ok(parsed) => with(parsed).or_else(|e| string().map_err(|_| e)),
            Err(_) => string(),
        };
        changed.map_err(|e| anyhow!(explain(e.message())))
    }

    fn check(&self) -> Result<()> {
        let compare = &self.compare;
        if compare.algorithms.is_empty() || compare.variants.is_empty() || compare.seeds == 0 {
            bail!("[compare] needs at least one of algorithms, of variants and of seeds");
        }
        if compare.variants.contains(&Variant::Retrieval) && compare.retrieval.is_none() {
            bail!("[compare] the variant retrieval needs retrieval = \"DIR\", a folder of real images");
        }
        for algorithm in compare.algorithms.iter().chain(&self.train.fixed) {
            domainbed::check_name(algorithm)?;
        }
        for (key, path) in [("[images] model", &self.images.model), ("[score] clip", &self.score.clip)] {
            if path == Path::new("") {
                bail!("{key} is missing: give the folder of a model");
            }
        }
        self.select.check().context("[select]")?;
        if self.select.classify() && self.test_domains.held_out().is_empty() {
            bail!(
                "[select] right, sure: a classifier must not have seen what is tested on: name one test domain"
            );
        }
        self.train.check().context("[train]")
    }

    /// What run.toml holds: every setting, with those that depend on others.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn text(&self) -> Result<String> {
        let steps = Some(self.train.steps());
        let train = Settings { steps, ..self.train.resolved() };
        toml::to_string(&Study { train, ..self.clone() }).context("run.toml")
    }

    /// Whether this is `held`, or `held` with more algorithms, variants or seeds, so that it may resume its folder.
    pub(super) fn extends(&self, held: &Study) -> bool {
        let (now, then) = (&self.compare, &held.compare);
        let rest = Study { compare: now.clone(), ..held.clone() };
        let same = then.retrieval.is_none() || then.retrieval == now.retrieval;
        // Whatever words they were given in.
        same && rest.text().ok() == self.text().ok()
            && then.algorithms.iter().all(|a| now.algorithms.contains(a))
            && then.variants.iter().all(|v| now.variants.contains(v))
            && then.seeds <= now.seeds
    }

    /// The first setting of this that is another in `held`.
    pub(super) fn difference(&self, held: &Study) -> Result<String> {
        let [own, held] = [self.text()?, held.text()?];
        let other = own.lines().find(|line| !held.lines().any(|l| l == *line));
        Ok(other.unwrap_or("fewer settings").to_string())
    }

    /// Trains these algorithms; `all` are the paper's eight, each on o, q, d and qd, for its Table 1.
    ///
    /// # Errors
    /// A name that is no algorithm.
    pub fn algorithms(mut self, names: Vec<String>) -> Result<Study> {
        if names == ["all"] {
            self.compare.algorithms = domainbed::PAPER.map(String::from).to_vec();
            self.compare.variants = Variant::PAPER.to_vec();
            return Ok(self);
        }
        for name in &names {
            domainbed::check_name(name)?;
        }
        self.compare.algorithms = names;
        Ok(self)
    }

    /// The same with every variant, but for retrieval where no folder of real images is given.
    pub fn full(mut self) -> Study {
        let real = self.compare.retrieval.is_some();
        self.compare.variants =
            Variant::ALL.into_iter().filter(|v| real || *v != Variant::Retrieval).collect();
        self
    }

    /// The same with few images and short trainings: to see that everything works.
    pub fn quick(mut self) -> Study {
        self.prompts.share /= 10.0;
        self.images.steps = self.images.steps.min(6);
        self.compare.seeds = 1;
        self.train.steps = Some(self.train.steps().min(12));
        self
    }
}

fn from_table(mut table: Spanned<DeTable>) -> Result<Study, toml::de::Error> {
    renew(table.get_mut());
    Study::deserialize(Deserializer::from(table))
}

/// Moves keys to where they are now, so that files that were written before `[compare]` was a table still hold.
fn renew(study: &mut DeTable) {
    let mut moved = vec![];
    if let Some(value) = study.remove("test_domain") {
        moved.push(("test_domains", value));
    }
    if let Some(value) = study.remove("hold_out_concepts") {
        moved.push(("train.hold_out_concepts", value));
    }
    if let Some(DeValue::Table(train)) = study.get_mut("train").map(Spanned::get_mut) {
        for (old, new) in [
            ("algorithms", "compare.algorithms"),
            ("variants", "compare.variants"),
            ("seeds", "compare.seeds"),
            ("plain_validation", "train.val_augment"),
            ("skip_train_accuracy", "train.train_accuracy"),
        ] {
            let Some(mut value) = train.remove(old) else { continue };
            if let (true, DeValue::Boolean(b)) = (new.starts_with("train."), value.get_mut()) {
                *b = !*b;
            }
            moved.push((new, value));
        }
    }
    for (path, value) in moved {
        insert(study, path, value);
    }
}

/// Sets the value at `path`, keys joined by dots.
fn insert<'a>(table: &mut DeTable<'a>, path: &'a str, value: Spanned<DeValue<'a>>) {
    let span = value.span();
    let Some((first, rest)) = path.split_once('.') else {
        table.insert(Spanned::new(span, path.into()), value);
        return;
    };
    let inner = table.entry(Spanned::new(span.clone(), first.into()));
    let inner = inner.or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
    match inner.get_mut() {
        DeValue::Table(inner) => insert(inner, rest, value),
        // No table: then it is refused as a value of another type.
        other => *other = DeValue::Table(DeTable::new()),
    }
}

/// A message of the TOML reader for people: of an unknown key, with the nearest one that there is.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if let (true, Some(unknown)) = (message.starts_with("unknown field"), quoted.next()) {
        let likeness = |known: &&str| strsim::jaro_winkler(known, unknown);
        let nearest = quoted.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default();
        return format!("no key `{unknown}`: did you mean `{nearest}`?");
    }
    let words = [
        ("a nonzero usize", "a whole number from 1"),
        ("usize", "a whole number"),
        ("u64", "a whole number"),
        ("f32", "a number"),
        ("f64", "a number"),
        ("a map", "a table"),
    ];
    let said = words.iter().fold(message.to_string(), |said, (rust, plain)| {
        said.replace(&format!("expected {rust}"), &format!("expected {plain}"))
    });
    said.replace("type: map", "type: table")
}
