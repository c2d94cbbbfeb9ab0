//! The data side of a run: which images make up the environments, and how they are drawn and shown.

use super::folder::Folder;
use super::settings::{Training as Config, Variant};
use crate::data::augment::{View, pack, packed_words};
use crate::data::dataset::{Dataset, Item, split};
use crate::data::hash::fnv1a;
use crate::data::images::Images;
use crate::data::rng::Key;
use crate::domainbed::samples::{Rows, Samples};
use crate::domainbed::trainer::Predictor;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// Images of one prediction, where the device has room for them; DomainBed's number.
pub const EVAL_BATCH: usize = 64;

/// One environment: the images of a domain, and which of them are trained on.
pub struct Env {
    pub name: String,
    pub items: Vec<Item>,
    /// Places in `items`: the large part and the small (validation) part.
    pub parts: [Vec<usize>; 2],
    pub test: bool,
}

/// The environments: DomainBed's, then those of new generated domains.
pub fn environments(config: &Config, dataset: &Dataset) -> Result<Vec<Env>> {
    for name in &config.test_domains {
        dataset.env(name)?;
    }
    let held = |item: &Item| config.hold_out_concepts && is_unseen(item);
    let mut envs: Vec<Env> = vec![];
    let originals = &dataset.domains;
    for domain in originals {
        let test = config.test_domains.contains(&domain.name);
        let items: Vec<Item> = domain.items.iter().filter(|i| test || !held(i)).cloned().collect();
        let (small, large) = split(items.len(), config.holdout_fraction, config.trial_seed, envs.len());
        envs.push(Env { name: domain.name.clone(), items, parts: [large, small], test });
    }
    if envs.iter().all(|e| e.test) {
        bail!("all {} domains are test domains: nothing is left to train on", envs.len());
    }
    if config.variant == Variant::O {
        return Ok(envs);
    }
    let Some(extra) = &config.extra else {
        bail!("variant {} needs --extra, the folder of generated images", config.variant.name());
    };
    let (mut joined, mut new) = (0, 0);
    for domain in Dataset::added(extra, &dataset.classes)? {
        let mut add = |name: String, items: Vec<Item>| {
            let (small, large) = split(items.len(), config.holdout_fraction, config.trial_seed, envs.len());
            envs.push(Env { name, items, parts: [large, small], test: false });
        };
        let tested = config.test_domains.contains(&domain.name);
        // Nothing in the style of a domain that is tested on is trained on, unless that is asked for.
        if tested && !config.include_test_style {
            continue;
        }
        match originals.iter().position(|d| d.name == domain.name) {
            // Then apart from the originals, which are only tested on.
            Some(_) if tested && config.variant != Variant::D => {
                add(format!("{} (generated)", domain.name), domain.items);
                joined += 1;
            }
            // Validation stays on originals, the same ones for every variant.
            Some(e) if config.variant != Variant::D => {
                let env = &mut envs[e];
                env.parts[0].extend(env.items.len()..env.items.len() + domain.items.len());
                env.items.extend(domain.items);
                joined += 1;
            }
            None if config.variant != Variant::Q => {
                add(domain.name, domain.items);
                new += 1;
            }
            _ => {}
        }
    }
    let lacks = |what: &str| {
        format!("{}: no images {what}, which variant {} adds", extra.display(), config.variant.name())
    };
    if joined == 0 && config.variant != Variant::D {
        bail!(lacks("in the style of a training domain"));
    }
    if new == 0 && config.variant != Variant::Q {
        bail!(lacks("of a new domain"));
    }
    Ok(envs)
}

/// Says which classes a training environment has no image of: upstream would train on without a word.
pub fn warn_of_missing_classes(envs: &[Env], classes: &[String]) {
    for env in envs.iter().filter(|e| !e.test) {
        let has = |class: usize| env.parts[0].iter().any(|&i| env.items[i].class == class);
        let missing: Vec<_> = (0..classes.len()).filter(|&c| !has(c)).map(|c| classes[c].as_str()).collect();
        if !missing.is_empty() {
            eprintln!("warning: domain {} has no training images of {}", env.name, missing.join(", "));
        }
    }
}

/// A fifth of all concepts.
fn is_unseen(item: &Item) -> bool {
    fnv1a(item.stem()).is_multiple_of(5)
}

/// Takes images that cannot be read out of the parts, if that is asked for: everything else stays where it was.
///
/// # Errors
/// An image that cannot be read, without `--skip-bad`; others than when the run began.
pub fn leave_out_unreadable(
    config: &Config,
    envs: &mut [Env],
    images: &Images,
    folder: &Folder,
) -> Result<()> {
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
        envs[*e].parts.iter_mut().for_each(|part| part.retain(|place| place != i));
    }
    if !unreadable.is_empty() {
        let all: usize = envs.iter().map(|e| e.items.len()).sum();
        eprintln!("{} of {all} images are left out", unreadable.len());
    }
    folder.check_skipped(&names)
}

/// Images as the network is shown them.
pub struct Shown<'a> {
    config: &'a Config,
    envs: &'a [Env],
    images: &'a Images,
    augmented: bool,
    /// The places of each environment's training part by class, where batches are drawn so that classes are equally frequent.
    balanced: Option<Vec<Vec<Vec<usize>>>>,
}

impl<'a> Shown<'a> {
    /// `augmented` and `balanced` are the hyper-parameters `data_augmentation` and `class_balanced`.
    pub fn new(
        config: &'a Config,
        envs: &'a [Env],
        images: &'a Images,
        [augmented, balanced]: [bool; 2],
    ) -> Shown<'a> {
        let by_class = |env: &Env| {
            let mut classes: Vec<Vec<usize>> = vec![];
            for &i in &env.parts[0] {
                let class = env.items[i].class;
                classes.resize(classes.len().max(class + 1), vec![]);
                classes[class].push(i);
            }
            classes.retain(|places| !places.is_empty());
            classes
        };
        let balanced = balanced.then(|| envs.iter().map(by_class).collect());
        Shown { config, envs, images, augmented, balanced }
    }

    /// The kind of samples.
    pub fn samples(&self) -> Samples {
        let size = self.config.size;
        let words = self.images.sizes().map(|image| packed_words(image, size)).max().unwrap_or(0);
        Samples::Pictures { size, words }
    }

    /// `batch` images, drawn with replacement, of each training environment: packed images and labels.
    pub fn minibatch(&self, step: usize, training: &[usize], batch: usize) -> (Vec<u32>, Vec<u32>) {
        let (mut shown, mut labels) = (vec![], vec![]);
        for &e in training {
            let key = |purpose: &str| Key::new(self.config.seed, step as u32, &format!("{purpose} {e}"));
            let (draws, augment, env) = (key("batch"), key("augment"), &self.envs[e]);
            let of = |list: &[usize], draw: usize| list[draws.below(draw as u32, list.len() as u32) as usize];
            for row in 0..batch {
                let i = match &self.balanced {
                    None => of(&env.parts[0], row),
                    Some(classes) => {
                        let class = draws.below(2 * row as u32, classes[e].len() as u32);
                        of(&classes[e][class as usize], 2 * row + 1)
                    }
                };
                let image = self.images.get(e, i);
                let view = match self.augmented {
                    true => View::random(image, augment, row),
                    false => View::plain(image),
                };
                shown.push((image, view));
                labels.push(env.items[i].class as u32);
            }
        }
        (pack(self.config.size, &shown), labels)
    }

    /// Adds the accuracies of every environment's parts, and of the test domains as a whole.
    pub fn evaluate(
        &self,
        predictor: &mut Predictor,
        step: usize,
        record: &mut Map<String, Value>,
    ) -> Result<()> {
        let (mut right, mut unseen) = ([0, 0], [0, 0]);
        for (part, name) in ["in", "out"].into_iter().enumerate() {
            for (e, env) in self.envs.iter().enumerate() {
                let places = &env.parts[part];
                if places.is_empty() || (part == 0 && !env.test && !self.config.train_accuracy) {
                    continue;
                }
                let correct = self.correct(predictor, e, part, step)?;
                let share = correct.iter().filter(|&&c| c).count() as f64 / places.len() as f64;
                record.insert(format!("env{e}_{name}_acc"), json!(share));
                if env.test {
                    for (&i, &c) in places.iter().zip(&correct) {
                        let add = |to: &mut [usize; 2]| *to = [to[0] + usize::from(c), to[1] + 1];
                        add(&mut right);
                        if is_unseen(&env.items[i]) {
                            add(&mut unseen);
                        }
                    }
                }
            }
        }
        let share = |[right, all]: [usize; 2]| json!(right as f64 / all as f64);
        if right[1] > 0 {
            record.insert("test_acc".into(), share(right));
        }
        if self.config.hold_out_concepts && unseen[1] > 0 {
            record.insert("test_unseen_acc".into(), share(unseen));
        }
        Ok(())
    }

    /// The cross entropy of the validation images, averaged over the training environments.
    pub fn validation_loss(&self, predictor: &mut Predictor, step: usize) -> Result<f32> {
        let (mut sum, mut envs) = (0.0, 0);
        for (e, env) in self.envs.iter().enumerate().filter(|(_, env)| !env.test && !env.parts[1].is_empty())
        {
            let logits = self.logits(predictor, e, 1, step)?;
            let loss = |(&i, row): (&usize, &[f32])| {
                let most = row.iter().fold(f32::MIN, |m, &v| m.max(v)) as f64;
                let rest: f64 = row.iter().map(|&v| (v as f64 - most).exp()).sum();
                most + rest.ln() - row[env.items[i].class] as f64
            };
            let rows = logits.chunks_exact(logits.len() / env.parts[1].len());
            sum += env.parts[1].iter().zip(rows).map(loss).sum::<f64>() / env.parts[1].len() as f64;
            envs += 1;
        }
        if envs == 0 {
            bail!("--swad needs validation images: choose a larger --holdout-fraction");
        }
        Ok((sum / f64::from(envs)) as f32)
    }

    /// Which images of one part of one environment are classified rightly.
    fn correct(&self, predictor: &mut Predictor, e: usize, part: usize, step: usize) -> Result<Vec<bool>> {
        let (env, places) = (&self.envs[e], &self.envs[e].parts[part]);
        let logits = self.logits(predictor, e, part, step)?;
        // The first of equals.
        let best = |row: &[f32]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
        let rows = logits.chunks_exact(logits.len() / places.len());
        Ok(places.iter().zip(rows).map(|(&i, row)| env.items[i].class == best(row)).collect())
    }

    /// Logits of the images of one part of one environment, which is not empty, one after the other.
    fn logits(&self, predictor: &mut Predictor, e: usize, part: usize, step: usize) -> Result<Vec<f32>> {
        let env = &self.envs[e];
        let key = Key::new(self.config.seed, step as u32, &format!("evaluate {e} {part}"));
        let augmented = self.augmented && !env.test && self.config.val_augment;
        let rows = predictor.rows();
        let batches: Vec<&[usize]> = env.parts[part].chunks(rows).collect();
        let make = |b: usize| {
            let show = |row: usize| {
                // The last batch is filled up with its last image.
                let row = row.min(batches[b].len() - 1);
                let image = self.images.get(e, batches[b][row]);
                match augmented {
                    true => (image, View::random(image, key, b * rows + row)),
                    false => (image, View::plain(image)),
                }
            };
            pack(self.config.size, &(0..rows).map(show).collect::<Vec<_>>())
        };
        let mut x = Some(make(0));
        let mut all = vec![];
        for b in 0..batches.len() {
            let now = x.take().unwrap_or_default();
            let key = Key::new(self.config.seed, step as u32, &format!("predict {e} {part} {b}"));
            predictor.run(Rows::Pictures(&now), key)?;
            x = (b + 1 < batches.len()).then(|| make(b + 1));
            let logits = predictor.logits()?;
            all.extend_from_slice(&logits[..logits.len() / rows * batches[b].len()]);
        }
        if all.iter().any(|v| !v.is_finite()) {
            bail!("the network's outputs are not finite: training diverged; lower the learning rate");
        }
        Ok(all)
    }
}
