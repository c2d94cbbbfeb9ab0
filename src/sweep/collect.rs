//! Tables of a sweep: DomainBed's, for each way to select a model, and the paper's, with its numbers beside ours.

use super::published::{AVERAGE_1, AVERAGE_2, SETS_2, TABLE_1, TABLE_2};
use super::records::Records;
use super::select::{Choice, Group, Method, groups, mean, ranked};
use super::table::{Cell, Page, Table};
use crate::data::known::KNOWN;
use crate::domainbed::PAPER;
use crate::train::Variant;
use std::collections::{BTreeMap, BTreeSet};

/// DomainBed's algorithms in the order of its tables.
const ORDER: [&str; 34] = [
    "ERM",
    "ERMPlusPlus",
    "Fish",
    "IRM",
    "GroupDRO",
    "Mixup",
    "MLDG",
    "CORAL",
    "MMD",
    "DANN",
    "CDANN",
    "MTL",
    "SagNet",
    "ARM",
    "VREx",
    "RSC",
    "SD",
    "ANDMask",
    "SANDMask",
    "IGA",
    "SelfReg",
    "Fishr",
    "TRM",
    "IB_ERM",
    "IB_IRM",
    "CAD",
    "CondCAD",
    "Transfer",
    "CausIRL_CORAL",
    "CausIRL_MMD",
    "EQRM",
    "RDM",
    "ADRMX",
    "URM",
];

/// What stands after ±.
const SAMPLE: &str = "Standard error over trials, variance over n - 1.";
const DOMAINBEDS: &str =
    "Standard error over trials as DomainBed has it, variance over n; balanced accuracies over n - 1.";

/// Which accuracy tables show.
#[derive(Clone, Copy, PartialEq)]
enum Accuracy {
    /// Of all images, its spread as DomainBed's.
    DomainBeds,
    /// Of all images.
    Plain,
    /// Mean over classes.
    Balanced,
}

/// DomainBed's tables: a section for each way to choose, with a table for each data set and one of averages. The same of balanced
/// accuracies follows where records have them, which DomainBed's have not.
pub fn tables(records: &Records) -> Page {
    let section = |(method, accuracy): (Method, Accuracy)| {
        let chosen = Chosen::new(records, method, accuracy);
        let mut tables: Vec<Table> = chosen.datasets().iter().map(|d| chosen.by_domain(d)).collect();
        tables.push(chosen.averages());
        (format!("Model selection: {}{}", method.name(), chosen.which()), tables)
    };
    let mut sections: Vec<(Method, Accuracy)> = Method::ALL.map(|m| (m, Accuracy::DomainBeds)).into();
    if has_balanced(records) {
        sections.extend(Method::ALL.map(|m| (m, Accuracy::Balanced)));
    }
    Page {
        records: records.all.len(),
        note: DOMAINBEDS,
        sections: sections.into_iter().map(section).collect(),
    }
}

fn has_balanced(records: &Records) -> bool {
    records.all.iter().any(|r| !r.balanced_by_env.is_empty())
}

/// The paper's tables 1 and 2, ours and in brackets the published numbers, and ours by domain. Models are chosen by validation on the
/// training domains, and so is the variant in the column `chosen`.
pub fn paper(records: &Records) -> Page {
    let chosen = Chosen::new(records, Method::Iid, Accuracy::Plain);
    let datasets = chosen.datasets();
    let mut own: Vec<&str> = datasets.iter().map(String::as_str).collect();
    if own.is_empty() {
        own.push("PACS");
    }
    let mut tables: Vec<Table> = own.iter().map(|dataset| chosen.table_1(dataset)).collect();
    tables.push(chosen.table_2());
    let mut by_domain: Vec<Table> = datasets.iter().map(|d| chosen.by_domain(d)).collect();
    if has_balanced(records) {
        let balanced = Chosen::new(records, Method::Iid, Accuracy::Balanced);
        tables.extend(datasets.iter().map(|d| balanced.table_1(d)));
        by_domain.extend(datasets.iter().map(|d| balanced.by_domain(d)));
    }
    let sections = vec![("The paper's tables".into(), tables), ("By domain".into(), by_domain)];
    Page { records: records.all.len(), note: SAMPLE, sections }
}

/// What one way to choose chose in each group.
struct Chosen<'a> {
    records: &'a Records,
    method: Method,
    accuracy: Accuracy,
    groups: BTreeMap<Group, Choice<'a>>,
}

impl<'a> Chosen<'a> {
    fn new(records: &'a Records, method: Method, accuracy: Accuracy) -> Self {
        let best = |(group, of): (Group, Vec<_>)| {
            let ranked = ranked(method, &of, group.test_env, records.originals(&group.dataset));
            ranked.first().map(|&choice| (group, choice))
        };
        Chosen { records, method, accuracy, groups: groups(records).into_iter().filter_map(best).collect() }
    }

    /// What titles say of the accuracy.
    fn which(&self) -> &'static str {
        if self.accuracy == Accuracy::Balanced { ", balanced accuracy (mean over classes)" } else { "" }
    }

    fn cell(&self, values: &[f64]) -> Cell {
        if self.accuracy == Accuracy::DomainBeds { Cell::domainbeds(values) } else { Cell::of(values) }
    }

    /// The accuracy that tables show of a choice.
    fn shown(&self, test_env: usize, choice: &Choice) -> Option<f64> {
        match self.accuracy {
            Accuracy::Balanced => choice.record.balanced_by_env.get(&test_env).copied(),
            _ => Some(choice.test),
        }
    }

    /// DomainBed's first, in its order.
    fn datasets(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.records.all.iter().map(|r| &r.dataset).collect();
        let rank = |name: &str| KNOWN.iter().position(|k| k.name == name).unwrap_or(KNOWN.len());
        let mut names: Vec<String> = names.into_iter().cloned().collect();
        names.sort_by_key(|name| rank(name));
        names
    }

    /// DomainBed's first, in its order; then others as they come.
    fn algorithms(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = vec![];
        for record in &self.records.all {
            if !names.contains(&record.algorithm.as_str()) {
                names.push(&record.algorithm);
            }
        }
        names.sort_by_key(|name| ORDER.iter().position(|o| o == name).unwrap_or(ORDER.len()));
        names
    }

    /// Rows of DomainBed's tables: algorithms, and `qd` and the like as rows of their own.
    fn rows(&self) -> Vec<(&'a str, &'static str)> {
        let there = |a: &str, v: &str| self.records.all.iter().any(|r| r.algorithm == a && r.variant == v);
        let names = self.algorithms();
        let all = names.iter().flat_map(|&a| Variant::ALL.map(|v| (a, v.name())));
        all.filter(|(a, v)| there(a, v)).collect()
    }

    /// Test accuracies by trial and test domain.
    fn accuracies(
        &self,
        dataset: &str,
        algorithm: &str,
        variant: &str,
    ) -> BTreeMap<u64, BTreeMap<usize, f64>> {
        let mut trials: BTreeMap<u64, BTreeMap<usize, f64>> = BTreeMap::new();
        for (group, choice) in &self.groups {
            if group.dataset == dataset && group.algorithm == algorithm && group.variant == variant {
                let shown = self.shown(group.test_env, choice);
                trials.entry(group.trial_seed).or_default().extend(shown.map(|v| (group.test_env, v)));
            }
        }
        trials
    }

    fn by_domain(&self, dataset: &str) -> Table {
        let domains = &self.records.domains[dataset];
        let row = |(algorithm, variant): (&str, &str)| {
            let trials = self.accuracies(dataset, algorithm, variant);
            let cell =
                |env| self.cell(&trials.values().filter_map(|t| t.get(&env).copied()).collect::<Vec<_>>());
            let mut cells: Vec<Cell> = (0..domains.len()).map(cell).collect();
            cells.push(Cell::average(&cells));
            (row_name(algorithm, variant), cells)
        };
        Table {
            title: format!(
                "Dataset: {dataset}, model selection method: {}{}",
                self.method.name(),
                self.which()
            ),
            short: format!("{dataset}{}", self.which()),
            columns: domains.iter().cloned().chain(["Avg".into()]).collect(),
            rows: self.rows().into_iter().map(row).collect(),
            width: 20,
        }
    }

    fn averages(&self) -> Table {
        let datasets = self.datasets();
        let row = |(algorithm, variant): (&str, &str)| {
            let cell = |dataset: &String| {
                let trials = self.accuracies(dataset, algorithm, variant);
                let means = trials.values().filter_map(|t| mean(&t.values().copied().collect::<Vec<_>>()));
                self.cell(&means.collect::<Vec<_>>())
            };
            let mut cells: Vec<Cell> = datasets.iter().map(cell).collect();
            cells.push(Cell::average(&cells));
            (row_name(algorithm, variant), cells)
        };
        Table {
            title: format!("Averages, model selection method: {}{}", self.method.name(), self.which()),
            short: "Averages".into(),
            rows: self.rows().into_iter().map(row).collect(),
            columns: datasets.into_iter().chain(["Avg".into()]).collect(),
            width: 25,
        }
    }

    /// Mean over test domains, of the trials that have them all.
    fn whole(&self, dataset: &str, trials: &BTreeMap<u64, BTreeMap<usize, f64>>) -> Cell {
        let tested = self.groups.keys().filter(|g| g.dataset == dataset).map(|g| g.test_env);
        let tested = tested.collect::<BTreeSet<_>>().len();
        let whole = trials.values().filter(|t| t.len() == tested);
        let means: Vec<f64> = whole.filter_map(|t| mean(&t.values().copied().collect::<Vec<_>>())).collect();
        self.cell(&means)
    }

    /// The same of whichever variant has the best validation in each trial and test domain.
    fn of_chosen_variant(&self, dataset: &str, algorithm: &str) -> Cell {
        let mut best: BTreeMap<(u64, usize), &Choice> = BTreeMap::new();
        for variant in Variant::PAPER.map(Variant::name) {
            for (group, choice) in &self.groups {
                if group.dataset == dataset && group.algorithm == algorithm && group.variant == variant {
                    let held = best.entry((group.trial_seed, group.test_env)).or_insert(choice);
                    if choice.validation > held.validation {
                        *held = choice;
                    }
                }
            }
        }
        let mut trials: BTreeMap<u64, BTreeMap<usize, f64>> = BTreeMap::new();
        for ((trial, env), choice) in best {
            trials.entry(trial).or_default().extend(self.shown(env, choice).map(|v| (env, v)));
        }
        self.whole(dataset, &trials)
    }

    /// The paper's algorithms (where it has no numbers: those that there are), their average, which is empty if one is missing, and
    /// others before it.
    fn paper_rows(
        &self,
        cells: impl Fn(&str) -> Vec<Cell>,
        published: impl Fn(usize) -> Vec<f64>,
        average: &[f64],
    ) -> Vec<(String, Vec<Cell>)> {
        let beside = |mut cells: Vec<Cell>, numbers: &[f64]| {
            cells.iter_mut().zip(numbers).for_each(|(cell, &n)| cell.published = Some(n));
            cells
        };
        let there = self.algorithms();
        let listed = |i: &usize| !average.is_empty() || there.contains(&PAPER[*i]);
        let own: Vec<(usize, Vec<Cell>)> =
            (0..PAPER.len()).filter(listed).map(|i| (i, cells(PAPER[i]))).collect();
        let columns = own.first().map_or(0, |row| row.1.len());
        let column = |c| Cell::average(&own.iter().map(|row| row.1[c]).collect::<Vec<_>>());
        let last = beside((0..columns).map(column).collect(), average);
        let paper = own.into_iter();
        let mut rows: Vec<_> =
            paper.map(|(i, row)| (PAPER[i].to_string(), beside(row, &published(i)))).collect();
        for other in there.into_iter().filter(|a| !PAPER.contains(a)) {
            rows.push((other.to_string(), cells(other)));
        }
        rows.push(("average".into(), last));
        rows
    }

    fn table_1(&self, dataset: &str) -> Table {
        let cells = |algorithm: &str| {
            let one = |v: Variant| self.whole(dataset, &self.accuracies(dataset, algorithm, v.name()));
            Variant::PAPER.map(one).into_iter().chain([self.of_chosen_variant(dataset, algorithm)]).collect()
        };
        let (published, average): (fn(usize) -> Vec<f64>, &[f64]) = match dataset {
            "PACS" if self.accuracy != Accuracy::Balanced => (|i| TABLE_1[i].to_vec(), &AVERAGE_1),
            _ => (|_| vec![], &[]),
        };
        let beside = if self.accuracy == Accuracy::Balanced { "" } else { " (in brackets: the paper)" };
        let name = format!("Table 1: {dataset}, mean over test domains{}{beside}", self.which());
        Table {
            title: name.clone(),
            short: name,
            columns: Variant::PAPER
                .map(|v| v.name().to_string())
                .into_iter()
                .chain(["chosen".into()])
                .collect(),
            rows: self.paper_rows(cells, published, average),
            width: 20,
        }
    }

    fn table_2(&self) -> Table {
        let columns = ["o", "qd"].into_iter().flat_map(|v| SETS_2.map(|d| (d, v)));
        let columns: Vec<(&str, &str)> = columns.collect();
        let cells = |algorithm: &str| {
            columns.iter().map(|(d, v)| self.whole(d, &self.accuracies(d, algorithm, v))).collect()
        };
        let name = "Table 2: o against qd, mean over test domains (in brackets: the paper)".to_string();
        Table {
            title: name.clone(),
            short: name,
            rows: self.paper_rows(cells, |i| TABLE_2[i].to_vec(), &AVERAGE_2),
            columns: columns.iter().map(|(d, v)| format!("{d} {v}")).collect(),
            width: 20,
        }
    }
}

fn row_name(algorithm: &str, variant: &str) -> String {
    if variant == "o" { algorithm.into() } else { format!("{algorithm} {variant}") }
}
