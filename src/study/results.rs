//! What the trainings of a run came to: accuracies by algorithm and variant, and what they say.

use super::config::Study;
use super::demo;
use crate::data::dataset::Dataset;
use crate::data::stats::{Mean, verdict};
use crate::domainbed::PAPER;
use crate::sweep::published::published;
use crate::sweep::records::{Record, record};
use crate::sweep::select::validation;
use crate::train::Variant;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folder of a training of the run in `out`; below one for its `target` where a run has several.
pub fn folder(out: &Path, target: Option<&str>, algorithm: &str, variant: Variant, seed: u64) -> PathBuf {
    let name = format!("{algorithm}-{}-{seed}", variant.name());
    out.join("train").join(target.unwrap_or_default()).join(name)
}

/// What the trainings of the run in `out` are tested on, one or several domains each.
///
/// # Errors
/// A data set that cannot be listed.
pub fn targets(out: &Path, study: &Study) -> Result<Vec<Vec<String>>> {
    if let [one] = &study.test_domains.held_out()[..] {
        return Ok(vec![vec![one.clone()]]);
    }
    let dataset = Dataset::open(demo::data(&study.data, out))?;
    let names: Vec<String> = dataset.domains.into_iter().map(|domain| domain.name).collect();
    study.test_domains.targets(&names)
}

/// What a target is called.
pub fn named(target: &[String]) -> String {
    target.join("+")
}

/// Accuracies on the held-out domain of one algorithm on one variant, by seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracies {
    /// The domains that were tested on, with `+` between them.
    pub target: String,
    /// DomainBed's name.
    pub algorithm: String,
    /// Which generated images joined.
    pub variant: Variant,
    /// Of all images.
    pub seeds: BTreeMap<u64, f64>,
    /// Mean over classes, since these differ in size; empty where trainings of before did not record it.
    pub balanced: BTreeMap<u64, f64>,
    /// Of the concepts that were kept from training.
    pub unseen: BTreeMap<u64, f64>,
    /// Of the original validation images of the training domains.
    pub validation: BTreeMap<u64, f64>,
    /// Of the images of each class, by its name.
    pub classes: BTreeMap<u64, BTreeMap<String, f64>>,
}

impl Accuracies {
    /// Mean over all images and seeds.
    pub fn all(&self) -> Mean {
        Mean::of(&self.seeds.values().copied().collect::<Vec<_>>())
    }

    /// Whether it is of the same algorithm and variant.
    fn is_like(&self, other: &Accuracies) -> bool {
        self.algorithm == other.algorithm && self.variant == other.variant
    }

    /// The same of another accuracy, where each seed has it.
    pub fn mean(&self, of: &BTreeMap<u64, f64>) -> Option<Mean> {
        (of.len() == self.seeds.len()).then(|| Mean::of(&of.values().copied().collect::<Vec<_>>()))
    }
}

/// The trainings that are done in the run `dir`, by target, algorithm and variant in the order of its configuration.
///
/// # Errors
/// Files that are not what a run writes.
pub fn table(dir: &Path, study: &Study) -> Result<Vec<Accuracies>> {
    let targets = targets(dir, study)?;
    // What all variants share; painted images, which validate too, are easier.
    let originals = Dataset::open(demo::data(&study.data, dir)).map_or(usize::MAX, |data| data.domains.len());
    let mut rows = vec![];
    for target in &targets {
        let target = named(target);
        let below = Some(target.as_str()).filter(|_| targets.len() > 1);
        for algorithm in &study.compare.algorithms {
            for &variant in &study.compare.variants {
                let [mut seeds, mut balanced, mut unseen, mut valid] = [const { BTreeMap::new() }; 4];
                let mut classes = BTreeMap::new();
                for seed in 0..study.compare.seeds {
                    let folder = folder(dir, below, algorithm, variant, seed);
                    if folder.join("done").exists() {
                        let mut record = selected(&folder.join("results.jsonl"))?;
                        record.accuracy[1].truncate(originals);
                        valid.extend(validation(&record).map(|v| (seed, v)));
                        seeds.extend(record.test.map(|v| (seed, v)));
                        balanced.extend(record.balanced.map(|v| (seed, v)));
                        unseen.extend(record.unseen.map(|v| (seed, v)));
                        classes.insert(seed, record.classes);
                    }
                }
                if !seeds.is_empty() {
                    let (target, algorithm, validation) = (target.clone(), algorithm.clone(), valid);
                    rows.push(Accuracies {
                        target,
                        algorithm,
                        variant,
                        seeds,
                        balanced,
                        unseen,
                        validation,
                        classes,
                    });
                }
            }
        }
    }
    Ok(rows)
}

/// The mean over targets: for each algorithm and variant the seeds that are done for all of them.
pub fn averaged(rows: &[Accuracies]) -> Vec<Accuracies> {
    let targets: BTreeSet<&str> = rows.iter().map(|row| row.target.as_str()).collect();
    let mut means: Vec<Accuracies> = vec![];
    for row in rows {
        if means.iter().any(|mean| mean.is_like(row)) {
            continue;
        }
        let own: Vec<&Accuracies> = rows.iter().filter(|other| other.is_like(row)).collect();
        if own.len() < targets.len() {
            continue;
        }
        let mean = |of: fn(&Accuracies) -> &BTreeMap<u64, f64>| -> BTreeMap<u64, f64> {
            let all = |seed| own.iter().map(|r| of(r).get(seed).copied()).sum::<Option<f64>>();
            of(row).keys().filter_map(|seed| Some((*seed, all(seed)? / own.len() as f64))).collect()
        };
        let [seeds, balanced] = [mean(|r| &r.seeds), mean(|r| &r.balanced)];
        let [unseen, validation] = [mean(|r| &r.unseen), mean(|r| &r.validation)];
        if !seeds.is_empty() {
            let target = targets.iter().copied().collect::<Vec<_>>().join(", ");
            let classes = BTreeMap::new();
            means.push(Accuracies { target, seeds, balanced, unseen, validation, classes, ..row.clone() });
        }
    }
    means
}

/// By test domain: each algorithm and variant with its mean on every target, their mean, and the lowest. The header and rows; none where
/// there is one target.
pub fn by_target(rows: &[Accuracies]) -> Option<(Vec<String>, Vec<Vec<String>>)> {
    let mut targets: Vec<&str> = vec![];
    rows.iter().for_each(|row| {
        if !targets.contains(&row.target.as_str()) {
            targets.push(&row.target);
        }
    });
    if targets.len() < 2 {
        return None;
    }
    let head = ["algorithm", "trained on"].into_iter().chain(targets.iter().copied());
    let header = head.chain(["average", "worst"]).map(str::to_string).collect();
    let line = |mean: &Accuracies| {
        let own = || rows.iter().filter(|row| row.is_like(mean));
        let of = |target: &&str| own().find(|row| row.target == *target);
        let each = targets.iter().map(|target| of(target).map_or("–".into(), |row| row.all().to_string()));
        let worst = own().map(|row| row.all().mean).fold(f64::INFINITY, f64::min);
        let names = [mean.algorithm.clone(), mean.variant.name().to_string()];
        let ends = [mean.all().to_string(), format!("{:.1} %", 100.0 * worst)];
        names.into_iter().chain(each).chain(ends).collect()
    };
    Some((header, averaged(rows).iter().map(line).collect()))
}

/// By class: each algorithm and variant with its mean over all trainings and targets. The header and rows; none where it was not recorded.
pub fn by_class(rows: &[Accuracies]) -> Option<(Vec<String>, Vec<Vec<String>>)> {
    let names = rows.iter().flat_map(|row| row.classes.values()).flat_map(BTreeMap::keys);
    let names: BTreeSet<&String> = names.collect();
    if names.is_empty() {
        return None;
    }
    let head = ["algorithm", "trained on"].map(str::to_string).into_iter();
    let header = head.chain(names.iter().map(|name| name.to_string())).collect();
    let line = |first: &Accuracies| {
        let own = rows.iter().filter(|row| row.is_like(first)).flat_map(|row| row.classes.values());
        let own: Vec<_> = own.collect();
        let cell = |name: &&String| {
            let all: Vec<f64> = own.iter().filter_map(|classes| classes.get(*name).copied()).collect();
            match all.is_empty() {
                true => "–".to_string(),
                false => format!("{:.1} %", 100.0 * Mean::of(&all).mean),
            }
        };
        let names_of = [first.algorithm.clone(), first.variant.name().to_string()];
        names_of.into_iter().chain(names.iter().map(cell)).collect()
    };
    let first = |(i, row): &(usize, &Accuracies)| !rows[..*i].iter().any(|other| other.is_like(row));
    Some((header, rows.iter().enumerate().filter(first).map(|(_, row)| line(row)).collect()))
}

/// For each algorithm the variant that validation on the training domains would choose, and what it came to.
pub fn chosen(rows: &[Accuracies]) -> Vec<String> {
    let mut best: BTreeMap<&str, (&Accuracies, f64)> = BTreeMap::new();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        let Some(mean) = row.mean(&row.validation) else { continue };
        *count.entry(&row.algorithm).or_default() += 1;
        let held = best.entry(&row.algorithm).or_insert((row, mean.mean));
        if mean.mean > held.1 {
            *held = (row, mean.mean);
        }
    }
    let several = best.into_iter().filter(|(algorithm, _)| count[algorithm] > 1);
    let line = |(algorithm, (row, validation)): (&str, (&Accuracies, f64))| {
        let (variant, all) = (row.variant.name(), row.all());
        format!("{algorithm}: validation ({:.1} %) would choose {variant}: {all}", 100.0 * validation)
    };
    several.map(line).collect()
}

/// The record that validation on the training domains selects: the first of the best, as DomainBed does it.
fn selected(file: &Path) -> Result<Record> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let mut records = vec![];
    for (i, line) in text.lines().enumerate() {
        let place = || format!("{}: line {} is no result", file.display(), i + 1);
        records.push(record(file, line).with_context(place)?);
    }
    let better = |held: Record, new| if validation(&new) > validation(&held) { new } else { held };
    records.into_iter().reduce(better).with_context(|| format!("{}: no results in it", file.display()))
}

/// The paper's Table 1: algorithms by variants, and their average over algorithms (each seed's mean first), in brackets what the paper has for
/// it. Its header and rows.
pub fn matrix(rows: &[Accuracies], study: &Study) -> (Vec<&'static str>, Vec<(String, Vec<String>)>) {
    let variants = &study.compare.variants;
    let of = |algorithm: &str, variant: Variant| {
        rows.iter().find(|r| r.algorithm == algorithm && r.variant == variant)
    };
    let domains: Vec<&str> = rows.first().map_or(vec![], |row| row.target.split(", ").collect());
    let shown = |algorithm: &str, variant, mean: Option<Mean>| {
        let own = mean.map_or("–".into(), |m| m.to_string());
        // Its averages are those of its eight algorithms.
        let comparable = algorithm != "average" || study.compare.algorithms == PAPER;
        match published(&domains, algorithm, variant).filter(|_| comparable) {
            Some(theirs) => format!("{own} [{theirs}]"),
            None => own,
        }
    };
    let mut table: Vec<(String, Vec<String>)> = vec![];
    for algorithm in &study.compare.algorithms {
        let cell = |&v: &Variant| shown(algorithm, v, of(algorithm, v).map(Accuracies::all));
        table.push((algorithm.clone(), variants.iter().map(cell).collect()));
    }
    let average = |variant: Variant| {
        let all: Option<Vec<&Accuracies>> = study.compare.algorithms.iter().map(|a| of(a, variant)).collect();
        let all = all.filter(|all| all.iter().all(|row| row.seeds.keys().eq(all[0].seeds.keys())))?;
        let means =
            all[0].seeds.keys().map(|s| all.iter().map(|r| r.seeds[s]).sum::<f64>() / all.len() as f64);
        Some(Mean::of(&means.collect::<Vec<_>>()))
    };
    table.push(("average".into(), variants.iter().map(|&v| shown("average", v, average(v))).collect()));
    if let Some(ranks) = mean_ranks(rows, study) {
        table.push(("mean rank".into(), ranks.iter().map(|rank| format!("{rank:.2}")).collect()));
    }
    (variants.iter().map(|v| v.name()).collect(), table)
}

/// The mean over algorithms of each variant's place, 1 for the best; those that are equal share theirs. None where something is missing.
fn mean_ranks(rows: &[Accuracies], study: &Study) -> Option<Vec<f64>> {
    let variants = &study.compare.variants;
    let mut sums = vec![0.0; variants.len()];
    for algorithm in &study.compare.algorithms {
        let of = |v: &Variant| rows.iter().find(|r| r.algorithm == *algorithm && r.variant == *v);
        let means: Vec<f64> = variants.iter().map(|v| Some(of(v)?.all().mean)).collect::<Option<_>>()?;
        for (sum, own) in sums.iter_mut().zip(&means) {
            let (above, equal) =
                means.iter().fold((0, 0), |(a, e), m| (a + usize::from(m > own), e + usize::from(m == own)));
            *sum += above as f64 + (equal + 1) as f64 / 2.0;
        }
    }
    Some(sums.into_iter().map(|sum| sum / study.compare.algorithms.len() as f64).collect())
}

/// What the table says, in sentences: each variant against the originals alone, and all generated images against what they have to be
/// better than, seed by seed.
pub fn findings(rows: &[Accuracies]) -> Vec<String> {
    let mut lines = vec![];
    let rivals = [Variant::QdAll, Variant::Plain, Variant::Img2img, Variant::Retrieval];
    let pairs = rows.iter().flat_map(|row| {
        let others: &[Variant] = match row.variant {
            Variant::O => &[],
            Variant::Qd => &[&[Variant::O], &rivals[..]].concat(),
            _ => &[Variant::O],
        };
        let of = |v: &Variant| rows.iter().find(|o| o.variant == *v && o.algorithm == row.algorithm);
        others.iter().filter_map(of).map(|other| (row, other)).collect::<Vec<_>>()
    });
    for (row, other) in pairs {
        let (algorithm, names) = (&row.algorithm, [row, other].map(|r| r.variant.name()).join(" against "));
        let differences = |of: &BTreeMap<u64, f64>, o: &BTreeMap<u64, f64>| -> Vec<f64> {
            of.iter().filter_map(|(seed, v)| Some(v - o.get(seed)?)).collect()
        };
        for (what, of, o) in
            [("", &row.seeds, &other.seeds), (", balanced accuracy", &row.balanced, &other.balanced)]
        {
            let differences = differences(of, o);
            if !differences.is_empty() {
                lines.push(format!("{algorithm}: {names}{what}: {}", verdict(&differences)));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: &str, variant: Variant, seeds: &[(u64, f64)], validation: f64) -> Accuracies {
        let (seeds, none) = (seeds.iter().copied().collect::<BTreeMap<_, _>>(), BTreeMap::new());
        let validation = seeds.keys().map(|seed| (*seed, validation)).collect();
        let (target, algorithm, balanced) = (target.to_string(), "ERM".into(), none.clone());
        let classes = BTreeMap::new();
        Accuracies { target, algorithm, variant, seeds, balanced, unseen: none, validation, classes }
    }

    #[test]
    fn accuracies_by_class_are_means_over_trainings_that_saw_the_class() {
        let with = |target: &str, classes: &[(&str, f64)]| Accuracies {
            classes: [(0, classes.iter().map(|(name, v)| (name.to_string(), *v)).collect())].into(),
            ..row(target, Variant::O, &[(0, 0.5)], 0.9)
        };
        let rows = [with("a", &[("cat", 0.5), ("dog", 0.25)]), with("b", &[("cat", 0.7)])];
        let (header, lines) = by_class(&rows).unwrap();
        assert_eq!(header, ["algorithm", "trained on", "cat", "dog"]);
        assert_eq!(lines, [["ERM", "o", "60.0 %", "25.0 %"]]);
        assert!(by_class(&[row("a", Variant::O, &[(0, 0.5)], 0.9)]).is_none());
    }

    #[test]
    fn the_mean_over_targets_is_of_seeds_that_all_of_them_have() {
        let rows = [
            row("a", Variant::O, &[(0, 0.5), (1, 0.7)], 0.9),
            row("b", Variant::O, &[(0, 0.3)], 0.8),
            row("a", Variant::Qd, &[(0, 0.6)], 0.6),
        ];
        let means = averaged(&rows);
        // qd is not done for b.
        assert_eq!(means.len(), 1);
        assert_eq!((means[0].seeds.clone(), &means[0].target[..]), (BTreeMap::from([(0, 0.4)]), "a, b"));
        let (header, lines) = by_target(&rows).unwrap();
        assert_eq!(header, ["algorithm", "trained on", "a", "b", "average", "worst"]);
        assert_eq!(lines[0][4..], ["40.0 %", "30.0 %"]);
        assert!(by_target(&rows[..1]).is_none());
    }

    #[test]
    fn places_are_means_over_algorithms_and_equals_share_theirs() {
        let mut study = Study::demo().unwrap();
        study.compare.algorithms = ["ERM", "CORAL"].map(String::from).to_vec();
        study.compare.variants = vec![Variant::O, Variant::Q, Variant::Qd];
        let mut rows = vec![];
        for (algorithm, accuracies) in [("ERM", [0.5, 0.7, 0.6]), ("CORAL", [0.5, 0.5, 0.4])] {
            for (&variant, accuracy) in study.compare.variants.iter().zip(accuracies) {
                rows.push(Accuracies {
                    algorithm: algorithm.into(),
                    ..row("a", variant, &[(0, accuracy)], 0.0)
                });
            }
        }
        assert_eq!(mean_ranks(&rows, &study), Some(vec![2.25, 1.25, 2.5]));
        assert_eq!(mean_ranks(&rows[1..], &study), None);
    }

    #[test]
    fn the_papers_numbers_stand_beside_ours_where_it_has_them() {
        let mut study = Study::demo().unwrap();
        let cells =
            |target: &str, study: &Study| matrix(&[row(target, Variant::Qd, &[(0, 0.5)], 0.0)], study).1;
        let pacs = "art_painting, cartoon, photo, sketch";
        assert_eq!(cells(pacs, &study)[0], ("ERM".into(), vec!["– [84.4]".into(), "50.0 % [87.5]".into()]));
        // One algorithm is no average of eight.
        assert_eq!(cells(pacs, &study)[1].1[1], "50.0 %");
        assert_eq!(cells("a, b", &study)[0].1[1], "50.0 %");
        study.compare.algorithms = PAPER.map(String::from).to_vec();
        assert_eq!(cells(pacs, &study)[8].1, ["– [83.6]", "– [86.3]"]);
    }

    #[test]
    fn validation_chooses_among_variants() {
        let rows = [row("a", Variant::O, &[(0, 0.5)], 0.9), row("a", Variant::Qd, &[(0, 0.6)], 0.8)];
        assert_eq!(chosen(&rows), ["ERM: validation (90.0 %) would choose o: 50.0 %"]);
        assert!(chosen(&rows[..1]).is_empty());
    }

    #[test]
    fn targets_are_single_domains_or_all_but_one() {
        use crate::study::config::TestDomains;
        let domains = ["a", "b", "c"].map(String::from);
        let of = |which: TestDomains| {
            which.targets(&domains).unwrap().iter().map(|t| named(t)).collect::<Vec<_>>()
        };
        assert_eq!(of(TestDomains::Each), ["a", "b", "c"]);
        assert_eq!(of(TestDomains::SingleSource), ["b+c", "a+c", "a+b"]);
        assert_eq!(of(TestDomains::These(vec!["b".into()])), ["b"]);
        assert!(TestDomains::Each.targets(&domains[..1]).is_err());
        let said = |names: &[&str]| {
            let these = TestDomains::These(names.iter().map(|name| name.to_string()).collect());
            these.targets(&domains).unwrap_err().to_string()
        };
        assert_eq!(said(&["a", "d"]), "test_domains: no domain d: there are a, b, c");
        assert_eq!(said(&["a", "b", "a"]), "test_domains: a is there twice");
    }
}
