//! Which images make up the environments, and which of them are trained on.

use super::settings::Training;
use super::variant::Variant;
use crate::data::chosen::{left_out, painted_from};
use crate::data::dataset::{Dataset, Domain, Item, split};
use crate::data::images::Images;
use crate::data::rng::fnv1a;
use anyhow::{Result, bail};

/// What a domain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its large split is trained on, its small one validates.
    Train,
    /// Only its small split is looked at, for validation: originals beside which only generated images are trained on.
    Validate,
    /// It is only tested on.
    Test,
}

/// The images of a domain.
pub struct Env {
    pub name: String,
    pub items: Vec<Item>,
    /// Indices in `items` of the images that are trained on: the large split. Of a test domain, DomainBed's `in` accuracy.
    pub train: Vec<usize>,
    /// Indices of the rest, which validate: DomainBed's `out` accuracy.
    pub validation: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Number in `items` of the first image that is no original; there may be none.
    pub added: usize,
}

impl Env {
    /// The `number`-th environment, whose split is drawn for it.
    fn new(config: &Training, number: usize, name: String, items: Vec<Item>, role: Role) -> Env {
        let (validation, mut train) = split(items.len(), config.holdout_fraction, config.trial_seed, number);
        if role == Role::Validate {
            train.clear();
        }
        Env { name, added: items.len(), items, train, validation, role }
    }

    /// Whether it is only tested on.
    pub fn test(&self) -> bool {
        self.role == Role::Test
    }

    /// Whether it is trained on.
    pub fn trained(&self) -> bool {
        self.role == Role::Train
    }
}

/// The environments: DomainBed's, then those of new generated domains.
///
/// # Errors
/// A test domain that does not exist, nothing to train on, a variant without generated images for it.
pub fn environments(config: &Training, dataset: &Dataset) -> Result<Vec<Env>> {
    let added = match &config.extra {
        Some(extra) if config.variant != Variant::O => {
            // Whoever chooses, nothing is trained on that was painted from an image of the test.
            let left_out = match config.variant {
                Variant::QdAll => painted_from(extra, &config.test_domains)?,
                _ => left_out(extra, &config.test_domains)?,
            };
            Dataset::added(extra, &dataset.classes, &left_out)?
        }
        _ => vec![],
    };
    environments_with(config, dataset, added)
}

/// The same with `added` images, which may still have to be painted.
///
/// # Errors
/// As [`environments`].
pub fn environments_with(config: &Training, dataset: &Dataset, added: Vec<Domain>) -> Result<Vec<Env>> {
    for name in &config.test_domains {
        dataset.env(name)?;
    }
    let held = |item: &Item| config.hold_out_concepts && is_unseen(item);
    let (mut envs, variant): (Vec<Env>, Variant) = (vec![], config.variant);
    let originals = &dataset.domains;
    for domain in originals {
        let test = config.test_domains.contains(&domain.name);
        let items: Vec<Item> = domain.items.iter().filter(|i| test || !held(i)).cloned().collect();
        let role = match (test, variant.has_originals()) {
            (true, _) => Role::Test,
            (false, true) => Role::Train,
            (false, false) => Role::Validate,
        };
        envs.push(Env::new(config, envs.len(), domain.name.clone(), items, role));
    }
    if envs.iter().all(Env::test) {
        bail!("all {} domains are test domains: nothing is left to train on", envs.len());
    }
    if variant == Variant::O {
        return Ok(envs);
    }
    let Some(extra) = &config.extra else {
        bail!("variant {} needs --extra, the folder of generated images", variant.name());
    };
    let (mut joined, mut new) = (0, 0);
    for domain in added {
        let tested = config.test_domains.contains(&domain.name);
        // Nothing in the style of a domain that is tested on is trained on, unless that is asked for.
        if tested && !config.include_test_style {
            continue;
        }
        let number = envs.len();
        match originals.iter().position(|d| d.name == domain.name) {
            // Then apart from the originals, which are not trained on.
            Some(_) if (tested || !variant.has_originals()) && variant.has_styles() => {
                let name = format!("{} (generated)", domain.name);
                envs.push(Env { added: 0, ..Env::new(config, number, name, domain.items, Role::Train) });
                joined += 1;
            }
            // Validation stays on originals, the same ones for every variant.
            Some(e) if variant.has_styles() => {
                let env = &mut envs[e];
                env.train.extend(env.items.len()..env.items.len() + domain.items.len());
                env.items.extend(domain.items);
                joined += 1;
            }
            None if variant.has_new() => {
                envs.push(Env {
                    added: 0,
                    ..Env::new(config, number, domain.name, domain.items, Role::Train)
                });
                new += 1;
            }
            _ => {}
        }
    }
    let lacks =
        |what: &str| format!("{}: no images {what}, which variant {} adds", extra.display(), variant.name());
    // Real images are of whatever styles there are.
    if variant == Variant::Retrieval && joined + new > 0 {
        return Ok(envs);
    }
    if joined == 0 && variant.has_styles() {
        bail!(lacks("in the style of a training domain"));
    }
    if new == 0 && variant.has_new() {
        bail!(lacks("of a new domain"));
    }
    Ok(envs)
}

/// Says which classes a training environment has no image of: upstream would train on without a word.
pub fn warn_of_missing_classes(envs: &[Env], classes: &[String]) {
    for env in envs.iter().filter(|e| e.trained()) {
        let has = |class: usize| env.train.iter().any(|&i| env.items[i].class == class);
        let missing: Vec<_> = (0..classes.len()).filter(|&c| !has(c)).map(|c| classes[c].as_str()).collect();
        if !missing.is_empty() {
            eprintln!("warning: domain {} has no training images of {}", env.name, missing.join(", "));
        }
    }
}

/// Whether the image's concept is one of the fifth that `hold_out_concepts` keeps from training.
pub fn is_unseen(item: &Item) -> bool {
    fnv1a(item.stem()).is_multiple_of(5)
}

/// Takes images that cannot be read out of both splits, if that is asked for: everything else stays where it was. Their paths, one per
/// line.
///
/// # Errors
/// An image that cannot be read, without `--skip-bad`.
pub fn leave_out_unreadable(config: &Training, envs: &mut [Env], images: &Images) -> Result<String> {
    let unreadable = &images.unreadable;
    if let Some((_, _, first)) = unreadable.first().filter(|_| !config.skip_bad) {
        let more = match unreadable.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more, which kaleid data check names)"),
        };
        bail!("{first:#}{more}; --skip-bad leaves such images out");
    }
    let mut names = String::new();
    for (e, i, error) in unreadable {
        eprintln!("left out: {error:#}");
        names += &format!("{}\n", envs[*e].items[*i].path.display());
        let env = &mut envs[*e];
        [&mut env.train, &mut env.validation].into_iter().for_each(|split| split.retain(|place| place != i));
    }
    if !unreadable.is_empty() {
        let all: usize = envs.iter().map(|e| e.items.len()).sum();
        eprintln!("{} of {all} images are left out", unreadable.len());
    }
    Ok(names)
}
