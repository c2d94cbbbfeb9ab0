//! How images are shown to the network: minibatches, accuracies, and the validation loss.

use super::environments::{Env, is_unseen};
use super::settings::Training;
use crate::data::augment::View;
use crate::data::images::Images;
use crate::data::packed::{pack, packed_words};
use crate::data::rng::Key;
use crate::domainbed::hparams::Hparams;
use crate::domainbed::predictor::Predictor;
use crate::domainbed::samples::{Rows, Samples};
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The two splits of an environment, in the order in which they are evaluated.
#[derive(Clone, Copy, PartialEq)]
enum Split {
    Train,
    Validation,
}

impl Split {
    fn of(self, env: &Env) -> &[usize] {
        match self {
            Split::Train => &env.train,
            Split::Validation => &env.validation,
        }
    }
}

/// Images of each class: how many are classified rightly, and how many there are.
#[derive(Default)]
struct ByClass(BTreeMap<usize, [usize; 2]>);

impl ByClass {
    fn add(&mut self, class: usize, correct: bool) {
        let [right, all] = self.0.entry(class).or_default();
        *right += usize::from(correct);
        *all += 1;
    }

    /// Balanced accuracy: the mean over the classes that have images.
    fn mean(&self) -> f64 {
        self.0.values().map(|[right, all]| *right as f64 / *all as f64).sum::<f64>() / self.0.len() as f64
    }

    /// The accuracy on each class that has images, by name.
    fn named(&self, classes: &[String]) -> Map<String, Value> {
        let one = |(&class, [right, all]): (&usize, &[usize; 2])| {
            (classes[class].clone(), json!(*right as f64 / *all as f64))
        };
        self.0.iter().map(one).collect()
    }
}

/// Images of one step.
pub struct Minibatch {
    /// Packed.
    pub pictures: Vec<u32>,
    /// Their classes.
    pub labels: Vec<u32>,
    /// What each counts in the cross entropy, where they do not count alike.
    pub weights: Option<Vec<f32>>,
}

/// Images as the network is shown them.
pub struct Shown<'a> {
    config: &'a Training,
    classes: &'a [String],
    envs: Vec<Env>,
    images: Images,
    augmented: bool,
    /// The training images of each environment by class, where batches are drawn so that classes are equally frequent.
    balanced: Option<Vec<Vec<Vec<usize>>>>,
    /// The training images of each environment that holds both: originals, and those that were added. For `--synthetic-share`.
    mixed: Vec<Option<[Vec<usize>; 2]>>,
}

impl<'a> Shown<'a> {
    /// `images` holds those of `envs`.
    pub fn new(
        config: &'a Training,
        classes: &'a [String],
        hparams: &Hparams,
        envs: Vec<Env>,
        images: Images,
    ) -> Shown<'a> {
        let by_class = |env: &Env| {
            let mut classes: Vec<Vec<usize>> = vec![];
            for &i in &env.train {
                let class = env.items[i].class;
                classes.resize(classes.len().max(class + 1), vec![]);
                classes[class].push(i);
            }
            classes.retain(|places| !places.is_empty());
            classes
        };
        let balanced = hparams.bool("class_balanced").then(|| envs.iter().map(by_class).collect());
        let mixed = envs.iter().map(|env| config.synthetic_share.and_then(|_| mixed(env))).collect();
        Shown { config, classes, envs, images, augmented: hparams.bool("data_augmentation"), balanced, mixed }
    }

    /// The smallest number of images that an environment trains on, test domains included, as DomainBed counts epochs.
    pub fn smallest(&self) -> usize {
        self.envs.iter().map(|env| env.train.len()).filter(|n| *n > 0).min().unwrap_or(1)
    }

    /// The kind of samples.
    pub fn samples(&self) -> Samples {
        let size = self.config.size;
        let words = self.images.sizes().map(|image| packed_words(image, size)).max().unwrap_or(0);
        Samples::Pictures { size, words }
    }

    /// `batch` images, drawn with replacement, of each training environment.
    pub fn minibatch(&self, step: usize, batch: usize) -> Minibatch {
        let (mut shown, mut labels, mut weights) = (vec![], vec![], vec![]);
        for (e, env) in self.envs.iter().enumerate().filter(|(_, env)| env.trained()) {
            let key = |purpose: &str| Key::new(self.config.seed, step as u32, &format!("{purpose} {e}"));
            let (draws, augment) = (key("batch"), key("augment"));
            let of = |list: &[usize], draw: usize| list[draws.below(draw as u32, list.len() as u32) as usize];
            for row in 0..batch {
                let i = match (&self.balanced, &self.mixed[e]) {
                    (None, None) => of(&env.train, row),
                    (None, Some(lists)) => {
                        let share = self.config.synthetic_share.unwrap_or_default();
                        let added = f64::from(key("share").uniform(row as u32)) < share;
                        of(&lists[usize::from(added)], row)
                    }
                    (Some(classes), _) => {
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
                weights
                    .extend(self.config.synthetic_weight.map(|w| if i < env.added { 1.0 } else { w as f32 }));
            }
        }
        let pictures = pack(self.config.size, &shown);
        Minibatch { pictures, labels, weights: Some(weights).filter(|weights| !weights.is_empty()) }
    }

    /// Adds the accuracies of both splits of every environment, and of the test domains as a whole.
    pub fn evaluate(
        &self,
        predictor: &mut Predictor,
        step: usize,
        record: &mut Map<String, Value>,
    ) -> Result<()> {
        let (mut right, mut unseen) = ([0, 0], [0, 0]);
        let mut by_class = ByClass::default();
        for (split, name) in [(Split::Train, "in"), (Split::Validation, "out")] {
            for (e, env) in self.envs.iter().enumerate() {
                let places = split.of(env);
                let skipped = split == Split::Train && !env.test() && !self.config.train_accuracy;
                if places.is_empty() || skipped {
                    continue;
                }
                let correct = self.correct(predictor, e, split, step)?;
                let share = correct.iter().filter(|&&c| c).count() as f64 / places.len() as f64;
                record.insert(format!("env{e}_{name}_acc"), json!(share));
                if env.test() {
                    let mut own = ByClass::default();
                    for (&i, &c) in places.iter().zip(&correct) {
                        [&mut own, &mut by_class].into_iter().for_each(|b| b.add(env.items[i].class, c));
                        let add = |to: &mut [usize; 2]| *to = [to[0] + usize::from(c), to[1] + 1];
                        add(&mut right);
                        if is_unseen(&env.items[i]) {
                            add(&mut unseen);
                        }
                    }
                    record.insert(format!("env{e}_{name}_balanced_acc"), json!(own.mean()));
                }
            }
        }
        let share = |[right, all]: [usize; 2]| json!(right as f64 / all as f64);
        if right[1] > 0 {
            record.insert("test_acc".into(), share(right));
            record.insert("test_balanced_acc".into(), json!(by_class.mean()));
            record.insert("test_class_acc".into(), by_class.named(self.classes).into());
        }
        if self.config.hold_out_concepts && unseen[1] > 0 {
            record.insert("test_unseen_acc".into(), share(unseen));
        }
        Ok(())
    }

    /// The cross entropy of the validation images, averaged over the training environments.
    pub fn validation_loss(&self, predictor: &mut Predictor, step: usize) -> Result<f32> {
        let (mut sum, mut envs) = (0.0, 0);
        let validates = |env: &Env| !env.test() && !env.validation.is_empty();
        for (e, env) in self.envs.iter().enumerate().filter(|(_, env)| validates(env)) {
            let logits = self.logits(predictor, e, Split::Validation, step)?;
            let loss = |(&i, row): (&usize, &[f32])| {
                let most = row.iter().fold(f32::MIN, |m, &v| m.max(v)) as f64;
                let rest: f64 = row.iter().map(|&v| (v as f64 - most).exp()).sum();
                most + rest.ln() - row[env.items[i].class] as f64
            };
            let rows = logits.chunks_exact(logits.len() / env.validation.len());
            sum += env.validation.iter().zip(rows).map(loss).sum::<f64>() / env.validation.len() as f64;
            envs += 1;
        }
        if envs == 0 {
            bail!("--swad needs validation images: choose a larger --holdout-fraction");
        }
        Ok((sum / f64::from(envs)) as f32)
    }

    /// Which images of one split of environment `e` are classified rightly.
    fn correct(&self, predictor: &mut Predictor, e: usize, split: Split, step: usize) -> Result<Vec<bool>> {
        let (env, places) = (&self.envs[e], split.of(&self.envs[e]));
        let logits = self.logits(predictor, e, split, step)?;
        // The first of equals.
        let best = |row: &[f32]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
        let rows = logits.chunks_exact(logits.len() / places.len());
        Ok(places.iter().zip(rows).map(|(&i, row)| env.items[i].class == best(row)).collect())
    }

    /// Logits of the images of one split of environment `e`, which is not empty, one after the other.
    fn logits(&self, predictor: &mut Predictor, e: usize, split: Split, step: usize) -> Result<Vec<f32>> {
        let (env, number) = (&self.envs[e], split as usize);
        let key = Key::new(self.config.seed, step as u32, &format!("evaluate {e} {number}"));
        let augmented = self.augmented && !env.test() && self.config.val_augment;
        let rows = predictor.rows();
        let batches: Vec<&[usize]> = split.of(env).chunks(rows).collect();
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
            let key = Key::new(self.config.seed, step as u32, &format!("predict {e} {number} {b}"));
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

/// The training images of an environment: originals, and those that were added, if it holds both.
fn mixed(env: &Env) -> Option<[Vec<usize>; 2]> {
    let (added, originals): (Vec<usize>, Vec<usize>) = env.train.iter().partition(|i| **i >= env.added);
    (!added.is_empty() && !originals.is_empty()).then_some([originals, added])
}

#[cfg(test)]
mod tests {
    use super::{ByClass, mixed};
    use crate::data::dataset::Item;
    use crate::train::environments::{Env, Role};

    #[test]
    fn originals_and_added_images_are_told_apart() {
        let item = |i: usize| Item { path: format!("{i}.png").into(), class: 0 };
        let env = |train: &[usize]| Env {
            name: "a".into(),
            items: (0..6).map(item).collect(),
            train: train.to_vec(),
            validation: vec![1],
            role: Role::Train,
            added: 3,
        };
        assert_eq!(mixed(&env(&[2, 0, 3, 4, 5])), Some([vec![2, 0], vec![3, 4, 5]]));
        assert_eq!((mixed(&env(&[2, 0])), mixed(&env(&[3]))), (None, None));
    }

    #[test]
    fn every_class_counts_the_same_in_balanced_accuracy() {
        let mut all = ByClass::default();
        // Nine of ten of one class, one of two of another, none of a class without images.
        (0..10).for_each(|i| all.add(0, i > 0));
        (0..2).for_each(|i| all.add(3, i > 0));
        assert!((all.mean() - (0.9 + 0.5) / 2.0).abs() < 1e-12);
        let named = all.named(&["a", "b", "c", "d"].map(String::from));
        assert_eq!(serde_json::Value::from(named), serde_json::json!({"a": 0.9, "d": 0.5}));
    }
}
