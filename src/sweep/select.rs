//! The three ways to select a model among runs with different hyper-parameters and among their evaluations (Gulrajani and Lopez-Paz, 2020,
//! section 3). All report the accuracy on the large part of the test domain.

use super::records::{Record, Records};
use std::collections::BTreeMap;

/// Which accuracy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// The mean over the small parts of all training domains, at the best step.
    Iid,
    /// For each training domain, the accuracy on it of a model that left it out too; their mean, at the best step.
    Loo,
    /// The small part of the test domain itself, at the last step: what no method should look at.
    Oracle,
}

impl Method {
    /// All, in DomainBed's order.
    pub const ALL: [Method; 3] = [Method::Iid, Method::Loo, Method::Oracle];

    /// DomainBed's name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Iid => "training-domain validation set",
            Method::Loo => "leave-one-domain-out cross-validation",
            Method::Oracle => "test-domain validation set (oracle)",
        }
    }
}

/// A run at the step that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice<'a> {
    /// The accuracy that decides.
    pub validation: f64,
    /// Accuracy on the test domain.
    pub test: f64,
    /// The evaluation.
    pub record: &'a Record,
}

/// What runs that are compared by validation have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// DomainBed's name.
    pub dataset: String,
    /// DomainBed's name.
    pub algorithm: String,
    /// o, q, d or qd.
    pub variant: String,
    /// Number of the test domain.
    pub test_env: usize,
    /// Which split.
    pub trial_seed: u64,
}

/// The records by group. A run with two test domains is in the groups of both.
pub fn groups(records: &Records) -> BTreeMap<Group, Vec<&Record>> {
    let mut groups: BTreeMap<Group, Vec<&Record>> = BTreeMap::new();
    for record in &records.all {
        for &test_env in &record.test_envs {
            let group = Group {
                dataset: record.dataset.clone(),
                algorithm: record.algorithm.clone(),
                variant: record.variant.clone(),
                test_env,
                trial_seed: record.trial_seed,
            };
            groups.entry(group).or_default().push(record);
        }
    }
    groups
}

/// The hyper-parameters of a group, each at its chosen step, best first; among equals the highest `hparams_seed`. `originals` is the
/// number of the data set's own domains.
pub fn ranked<'a>(
    method: Method,
    records: &[&'a Record],
    test_env: usize,
    originals: usize,
) -> Vec<Choice<'a>> {
    let mut runs: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in records {
        runs.entry(record.hparams_seed).or_default().push(record);
    }
    let choose = |run: &Vec<&'a Record>| match method {
        Method::Iid => iid(run, test_env),
        Method::Loo => loo(run, test_env, originals),
        Method::Oracle => oracle(run, test_env),
    };
    let mut chosen: Vec<_> = runs.values().filter_map(choose).collect();
    chosen.sort_by(|a, b| a.validation.total_cmp(&b.validation));
    chosen.reverse();
    chosen
}

fn iid<'a>(run: &[&'a Record], test_env: usize) -> Option<Choice<'a>> {
    best(run.iter().filter(|r| r.test_envs.len() == 1).filter_map(|record| {
        let test = (*record.accuracy[0].get(test_env)?)?;
        Some(Choice { validation: validation(record)?, test, record })
    }))
}

/// What training-domain validation compares: the mean accuracy over the small parts of all training domains, except those too small to
/// have one.
pub fn validation(record: &Record) -> Option<f64> {
    let small = record.accuracy[1].iter().enumerate();
    let training = small.filter(|(env, _)| !record.test_envs.contains(env));
    mean(&training.filter_map(|(_, accuracy)| *accuracy).collect::<Vec<_>>())
}

fn oracle<'a>(run: &[&'a Record], test_env: usize) -> Option<Choice<'a>> {
    let last = run.iter().filter(|r| r.test_envs.len() == 1).max_by_key(|r| r.step)?;
    let [large, small] = last.accuracy.each_ref().map(|part| part.get(test_env).copied().flatten());
    Some(Choice { validation: small?, test: large?, record: last })
}

fn loo<'a>(run: &[&'a Record], test_env: usize, originals: usize) -> Option<Choice<'a>> {
    let mut steps: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in run {
        steps.entry(record.step).or_default().push(record);
    }
    best(steps.values().filter_map(|records| {
        // Exactly one: two runs in one folder would be mixed up.
        let only = |envs: &[usize]| {
            let mut found = records
                .iter()
                .filter(|r| r.test_envs.len() == envs.len() && envs.iter().all(|e| r.test_envs.contains(e)));
            found.next().filter(|_| found.next().is_none()).copied()
        };
        let record = only(&[test_env])?;
        let others = (0..originals).filter(|&e| e != test_env);
        let others: Vec<f64> = others
            .map(|e| only(&[test_env, e]).and_then(|r| *r.accuracy[0].get(e)?))
            .collect::<Option<_>>()?;
        Some(Choice { validation: mean(&others)?, test: (*record.accuracy[0].get(test_env)?)?, record })
    }))
}

/// The first of those with the highest validation.
fn best<'a>(choices: impl Iterator<Item = Choice<'a>>) -> Option<Choice<'a>> {
    choices.reduce(|held, new| if new.validation > held.validation { new } else { held })
}

/// The mean; none of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn record(hparams_seed: u64, test_envs: &[usize], step: u64, large: &[f64], small: &[f64]) -> Record {
        Record {
            trial_seed: 0,
            dataset: "toy".into(),
            algorithm: "ERM".into(),
            variant: "o".into(),
            hparams_seed,
            test_envs: test_envs.to_vec(),
            step,
            accuracy: [large, small].map(|part| part.iter().copied().map(Some).collect()),
            test: None,
            unseen: None,
            balanced: None,
            balanced_by_env: BTreeMap::new(),
            classes: BTreeMap::new(),
            hparams: Map::new(),
            folder: String::new(),
        }
    }

    fn choose(method: Method, records: &[Record]) -> Vec<(u64, u64, f64)> {
        let chosen = ranked(method, &records.iter().collect::<Vec<_>>(), 0, 3);
        chosen.iter().map(|c| (c.record.hparams_seed, c.record.step, c.test)).collect()
    }

    #[test]
    fn training_domains_choose_the_first_best_step() {
        let records = [
            record(0, &[0], 0, &[0.1, 0.0, 0.0], &[0.9, 0.50, 0.50]),
            record(0, &[0], 300, &[0.2, 0.0, 0.0], &[0.0, 0.75, 0.75]),
            record(0, &[0], 600, &[0.3, 0.0, 0.0], &[0.0, 1.00, 0.50]),
            record(1, &[0], 0, &[0.4, 0.0, 0.0], &[0.0, 0.75, 0.75]),
            record(2, &[0, 1], 0, &[0.5, 0.0, 0.0], &[0.0, 1.00, 1.00]),
        ];
        assert_eq!(choose(Method::Iid, &records), [(1, 0, 0.4), (0, 300, 0.2)]);
    }

    #[test]
    fn the_oracle_sees_the_last_step() {
        let records = [
            record(0, &[0], 300, &[0.1, 0.0, 0.0], &[0.3, 0.0, 0.0]),
            record(0, &[0], 0, &[0.2, 0.0, 0.0], &[0.9, 0.0, 0.0]),
            record(1, &[0], 0, &[0.3, 0.0, 0.0], &[0.2, 0.0, 0.0]),
        ];
        assert_eq!(choose(Method::Oracle, &records), [(0, 300, 0.1), (1, 0, 0.3)]);
    }

    #[test]
    fn leaving_one_out_needs_every_pair_once() {
        let mut records = vec![
            record(0, &[0], 0, &[0.1, 0.0, 0.0], &[0.0; 3]),
            record(0, &[0, 1], 0, &[0.0, 0.6, 0.0], &[0.0; 3]),
            record(0, &[0, 2], 0, &[0.0, 0.0, 0.8], &[0.0; 3]),
            record(0, &[0], 300, &[0.9, 0.0, 0.0], &[0.0; 3]),
            record(0, &[0, 1], 300, &[0.0, 0.9, 0.0], &[0.0; 3]),
        ];
        assert_eq!(choose(Method::Loo, &records), [(0, 0, 0.1)]);
        let chosen = ranked(Method::Loo, &records.iter().collect::<Vec<_>>(), 0, 3);
        assert!((chosen[0].validation - 0.7).abs() < 1e-12);
        records.push(records[0].clone());
        assert_eq!(choose(Method::Loo, &records), []);
    }
}
