//! Hyper-parameters as DomainBed draws them: seed 0 gives the defaults; another draws each from its own generator, seeded by
//! the name, so that new ones never change the others. In 2020 it drew all from one generator, in the order of the lists here.

use crate::data::dataset::seed_hash;
use crate::data::rng::Mt19937;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Named values.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams(pub Map<String, Value>);

/// DomainBed's defaults changed over the years, and its results with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's numbers (commit 7df6f06): MLDG pairs all neighbours, Mixup's random alpha is always 0.1, GroupDRO's loss is divided
    /// by the number of environments, DANN's gradient penalty is none.
    Db2020,
    /// What papers ran from 2021 to July 2024 (up to commit 7ab1d01).
    #[default]
    Db2024,
    /// What came after (commit b93c22a): batch normalisation is trained.
    Dbhead,
}

/// What the hyper-parameters of a run depend on.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    /// DomainBed's name.
    pub algorithm: &'a str,
    /// Name of the data set: the small ones (28 pixels), DomainNet and others have ranges of their own.
    pub dataset: &'a str,
    /// Whose defaults.
    pub preset: Preset,
}

/// A name, its default and how its random value is drawn.
type Rule = (&'static str, Value, Box<dyn Fn(&mut Mt19937) -> Value>);

fn range(rng: &mut Mt19937, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.uniform()
}

fn uniform(name: &'static str, default: f64, low: f64, high: f64) -> Rule {
    (name, json!(default), Box::new(move |r| json!(range(r, low, high))))
}

/// 10 to a uniform power.
fn power(name: &'static str, default: f64, low: f64, high: f64) -> Rule {
    (name, json!(default), Box::new(move |r| json!(10f64.powf(range(r, low, high)))))
}

/// A whole number, `base` to a uniform power and rounded down.
fn count(name: &'static str, default: u64, base: f64, low: f64, high: f64) -> Rule {
    (name, json!(default), Box::new(move |r| json!(base.powf(range(r, low, high)) as u64)))
}

/// One of a few.
fn choice(name: &'static str, default: impl Into<Value>, of: &[impl Into<Value> + Clone]) -> Rule {
    let of: Vec<Value> = of.iter().cloned().map(Into::into).collect();
    (name, default.into(), Box::new(move |r| r.choice(&of).clone()))
}

/// The same in every draw.
fn constant(name: &'static str, value: impl Into<Value>) -> Rule {
    let value = value.into();
    (name, value.clone(), Box::new(move |_| value.clone()))
}

/// What all algorithms share.
fn shared(kind: Kind) -> Vec<Rule> {
    let mut rules = vec![
        constant("data_augmentation", true),
        choice("resnet_dropout", 0.0, &[0.0, 0.1, 0.5]),
        constant("class_balanced", false),
        constant("nonlinear_classifier", false),
    ];
    if kind.preset == Preset::Dbhead {
        rules.push(constant("freeze_bn", false));
    }
    let small = is_small(kind.dataset);
    rules.push(if small { power("lr", 1e-3, -4.5, -2.5) } else { power("lr", 5e-5, -5.0, -3.5) });
    rules.push(match kind.dataset {
        _ if small => count("batch_size", 64, 2.0, 3.0, 9.0),
        "DomainNet" => count("batch_size", 32, 2.0, 3.0, 5.0),
        _ => count("batch_size", 32, 2.0, 3.0, 5.5),
    });
    let decay = if small { constant("weight_decay", 0.0) } else { power("weight_decay", 0.0, -6.0, -2.0) };
    rules.push(decay);
    rules
}

/// Debug28 and the two kinds of MNIST.
fn is_small(dataset: &str) -> bool {
    ["Debug28", "RotatedMNIST", "ColoredMNIST"].contains(&dataset)
}

/// The rules of one algorithm.
type Own = fn(Kind) -> Vec<Rule>;

/// What algorithms add, by their names.
const OWN: &[(&str, Own)] = &[
    ("IRM", |_| irm()),
    ("VREx", |_| {
        vec![power("vrex_lambda", 1e1, -1.0, 5.0), count("vrex_penalty_anneal_iters", 500, 10.0, 0.0, 4.0)]
    }),
    ("Mixup", |kind| {
        let most = if kind.preset == Preset::Db2020 { -1.0 } else { 1.0 };
        vec![power("mixup_alpha", 0.2, -1.0, most)]
    }),
    ("MLDG", |kind| {
        let mut rules = vec![power("mldg_beta", 1.0, -1.0, 1.0)];
        if kind.preset != Preset::Db2020 {
            rules.push(choice("n_meta_test", 2, &[1, 2]));
        }
        rules
    }),
    ("CORAL", mmd),
    ("MMD", mmd),
    ("CausIRL_CORAL", mmd),
    ("CausIRL_MMD", mmd),
    ("MTL", |_| vec![choice("mtl_ema", 0.99, &[0.5, 0.9, 0.99, 1.0])]),
    ("SagNet", |_| vec![power("sag_w_adv", 0.1, -2.0, 1.0)]),
    ("GroupDRO", |_| vec![power("groupdro_eta", 1e-2, -3.0, -1.0)]),
    ("DANN", dann),
    ("CDANN", dann),
    ("RSC", |_| {
        vec![
            uniform("rsc_f_drop_factor", 1.0 / 3.0, 0.0, 0.5),
            uniform("rsc_b_drop_factor", 1.0 / 3.0, 0.0, 0.5),
        ]
    }),
    ("SD", |_| vec![power("sd_reg", 0.1, -5.0, -1.0)]),
    ("Fish", |_| vec![choice("meta_lr", 0.5, &[0.05, 0.1, 0.5])]),
    ("Fishr", |_| {
        vec![
            power("lambda", 1000.0, 1.0, 4.0),
            ("penalty_anneal_iters", json!(1500), Box::new(|r| json!(range(r, 0.0, 5000.0) as u64))),
            uniform("ema", 0.95, 0.90, 0.99),
        ]
    }),
    ("IB_ERM", |_| ib()),
    ("IB_IRM", |_| irm().into_iter().chain(ib()).collect()),
    ("ANDMask", |_| vec![uniform("tau", 1.0, 0.5, 1.0)]),
    ("EQRM", |_| {
        vec![
            uniform("eqrm_quantile", 0.75, 0.5, 0.99),
            power("eqrm_burnin_iters", 2500.0, 2.5, 3.5),
            power("eqrm_lr", 1e-6, -7.0, -5.0),
        ]
    }),
    ("ERMPlusPlus", |_| vec![constant("linear_steps", 500), power("linear_lr", 5e-5, -5.0, -3.5)]),
];

fn irm() -> Vec<Rule> {
    vec![power("irm_lambda", 1e2, -1.0, 5.0), count("irm_penalty_anneal_iters", 500, 10.0, 0.0, 4.0)]
}

fn ib() -> Vec<Rule> {
    vec![power("ib_lambda", 1e2, -1.0, 5.0), count("ib_penalty_anneal_iters", 500, 10.0, 0.0, 4.0)]
}

fn mmd(_: Kind) -> Vec<Rule> {
    vec![power("mmd_gamma", 1.0, -1.0, 1.0)]
}

fn dann(kind: Kind) -> Vec<Rule> {
    let mut rules = match is_small(kind.dataset) {
        true => vec![
            power("lr_g", 1e-3, -4.5, -2.5),
            power("lr_d", 1e-3, -4.5, -2.5),
            constant("weight_decay_g", 0.0),
        ],
        false => vec![
            power("lr_g", 5e-5, -5.0, -3.5),
            power("lr_d", 5e-5, -5.0, -3.5),
            power("weight_decay_g", 0.0, -6.0, -2.0),
        ],
    };
    rules.extend([
        power("lambda", 1.0, -2.0, 2.0),
        power("weight_decay_d", 0.0, -6.0, -2.0),
        count("d_steps_per_g_step", 1, 2.0, 0.0, 3.0),
        power("grad_penalty", 0.0, -2.0, 1.0),
        choice("beta1", 0.5, &[0.0, 0.5]),
        count("mlp_width", 256, 2.0, 6.0, 10.0),
        choice("mlp_depth", 3, &[3, 4, 5]),
        choice("mlp_dropout", 0.0, &[0.0, 0.1, 0.5]),
    ]);
    rules
}

/// What the algorithm adds.
fn own(kind: Kind) -> Vec<Rule> {
    OWN.iter().filter(|(name, _)| *name == kind.algorithm).flat_map(|(_, rules)| rules(kind)).collect()
}

/// Whether any algorithm has a hyper-parameter of this name.
fn belongs_to_some(name: &str) -> bool {
    let of = |algorithm| Kind { algorithm, dataset: "", preset: Preset::Db2024 };
    OWN.iter().flat_map(|(algorithm, rules)| rules(of(algorithm))).any(|rule| rule.0 == name)
}

/// The name of `names` that a mistyped one was most likely meant to be.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |n: &str| strsim::jaro_winkler(&name.to_lowercase(), &n.to_lowercase());
    let near = names.into_iter().map(|n| (likeness(n), n)).max_by(|a, b| a.0.total_cmp(&b.0));
    near.filter(|n| n.0 > 0.75).map(|n| n.1)
}

impl Hparams {
    /// The defaults (`hparams_seed` 0) or DomainBed's random draw.
    pub fn new(kind: Kind, hparams_seed: u64, trial_seed: u64) -> Self {
        let seed = seed_hash(&format!("({hparams_seed}, {trial_seed})"));
        let mut one = Mt19937::new(seed);
        let value = |(name, default, random): Rule| {
            let value = match (hparams_seed, kind.preset) {
                (0, _) => default,
                (_, Preset::Db2020) => random(&mut one),
                _ => random(&mut Mt19937::new(seed_hash(&format!("({seed}, '{name}')")))),
            };
            (name.to_string(), value)
        };
        Hparams(shared(kind).into_iter().chain(own(kind)).map(value).collect())
    }

    /// Sets one to a value of the same kind. One that only other algorithms have is left out: sweeps give all of them the same list.
    ///
    /// # Errors
    /// A name that does not exist, to which the nearest is offered; a value of another kind.
    pub fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let names: Vec<String> = self.0.keys().cloned().collect();
        if !self.0.contains_key(name) && belongs_to_some(name) {
            return Ok(());
        }
        let Some(old) = self.0.get_mut(name) else {
            match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => bail!("no hyper-parameter {name}: did you mean {near}?"),
                None => bail!("no hyper-parameter {name}: there are {}", names.join(", ")),
            }
        };
        let same = match old {
            Value::Bool(_) => value.is_boolean(),
            Value::Number(n) if n.is_u64() => {
                value.as_u64().is_some_and(|n| n > 0 || name.ends_with("iters") || name.ends_with("_steps"))
            }
            _ => value.as_f64().is_some_and(|v| v.is_finite() && v >= 0.0),
        };
        if !same {
            bail!("hyper-parameter {name} = {value}: it must be like {old}");
        }
        let below_one = ["resnet_dropout", "mlp_dropout", "ema", "rsc_f_drop_factor", "rsc_b_drop_factor"]
            .contains(&name);
        if below_one && value.as_f64() >= Some(1.0) {
            bail!("hyper-parameter {name} = {value}: it must be below 1");
        }
        if name == "mlp_depth" && value.as_u64() < Some(2) {
            bail!("hyper-parameter mlp_depth = {value}: it must be at least 2");
        }
        *old = value;
        Ok(())
    }

    /// A number.
    #[track_caller]
    pub fn f64(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no hyper-parameter {name}"))
    }

    /// A number.
    #[track_caller]
    pub fn f32(&self, name: &str) -> f32 {
        self.f64(name) as f32
    }

    /// A count.
    #[track_caller]
    pub fn usize(&self, name: &str) -> usize {
        self.f64(name) as usize
    }

    /// Yes or no.
    #[track_caller]
    pub fn bool(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or_else(|| panic!("no hyper-parameter {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hparams(algorithm: &str, hparams_seed: u64, trial_seed: u64) -> Hparams {
        let kind = Kind { algorithm, dataset: "PACS", preset: Preset::Db2024 };
        Hparams::new(kind, hparams_seed, trial_seed)
    }

    /// The value of each algorithm's hyper-parameter at hparams seeds 1, 2 and 3, trial seed 0.
    const DRAWS: &[(&str, &str, [f64; 3])] = &[
        ("ERM", "lr", [2.7028930742148706e-05, 5.6841898471378446e-05, 6.801736841150391e-05]),
        ("ERM", "weight_decay", [0.00044832883881609976, 0.005100223533962902, 1.046949588651311e-05]),
        ("ERM", "batch_size", [39.0, 25.0, 34.0]),
        ("ERM", "resnet_dropout", [0.5, 0.5, 0.0]),
        ("IRM", "irm_lambda", [65030.52212762795, 15.27125896858225, 29.3676220201571]),
        ("IRM", "irm_penalty_anneal_iters", [2.0, 1.0, 3001.0]),
        ("Mixup", "mixup_alpha", [0.6313491980790861, 1.9979661236942134, 0.5727335512358066]),
        ("CORAL", "mmd_gamma", [1.4227570299330277, 3.5146823420446407, 5.636749849666358]),
        ("MLDG", "mldg_beta", [5.4211455811356215, 1.2856569611986444, 2.6700750584519914]),
        ("MLDG", "n_meta_test", [1.0, 2.0, 1.0]),
        ("MTL", "mtl_ema", [0.99, 0.9, 1.0]),
        ("SagNet", "sag_w_adv", [0.010638215739319792, 1.6594429511632758, 1.5454042157581755]),
    ];

    #[test]
    fn draws_equal_domainbeds() {
        for (algorithm, name, values) in DRAWS {
            for (seed, want) in (1..).zip(values) {
                let got = hparams(algorithm, seed, 0).f64(name);
                assert!((got / want - 1.0).abs() < 1e-13 || got == *want, "{name} {seed}: {got} for {want}");
            }
        }
        assert_eq!(hparams("ERM", 0, 2).0["lr"], json!(5e-5));
    }

    /// What DomainBed drew in 2020 at hparams seed 1, trial seed 0, in its order.
    const DRAWS_OF_2020: &[(&str, &str, &[(&str, f64)])] = &[
        (
            "IRM",
            "PACS",
            &[
                ("resnet_dropout", 0.1),
                ("lr", 5.0781288859686544e-05),
                ("batch_size", 44.0),
                ("weight_decay", 0.00046410133598234803),
                ("irm_lambda", 157.81992145185575),
                ("irm_penalty_anneal_iters", 175.0),
            ],
        ),
        (
            "DANN",
            "DomainNet",
            &[
                ("batch_size", 31.0),
                ("lr_g", 6.30290056505935e-05),
                ("lr_d", 6.945464987501283e-05),
                ("weight_decay_g", 1.382924839229532e-06),
                ("lambda", 3.0247351617236133),
                ("weight_decay_d", 5.73732599105701e-06),
                ("d_steps_per_g_step", 1.0),
                ("grad_penalty", 1.2506376405762802),
                ("beta1", 0.0),
                ("mlp_width", 491.0),
                ("mlp_depth", 3.0),
                ("mlp_dropout", 0.1),
            ],
        ),
        (
            "DANN",
            "ColoredMNIST",
            &[
                ("lr", 0.00027601856421396065),
                ("batch_size", 479.0),
                ("weight_decay", 0.0),
                ("lr_g", 0.0006812498337484924),
                ("weight_decay_g", 0.0),
                ("lambda", 1.756049971126408),
                ("mlp_width", 294.0),
            ],
        ),
        ("Mixup", "PACS", &[("mixup_alpha", 0.1)]),
        ("MTL", "PACS", &[("mtl_ema", 0.5)]),
        (
            "RSC",
            "PACS",
            &[("rsc_f_drop_factor", 0.2665134852412123), ("rsc_b_drop_factor", 0.28056710878365126)],
        ),
        ("MLDG", "PACS", &[("mldg_beta", 1.1642706271054615)]),
    ];

    #[test]
    fn draws_of_2020_come_from_one_generator() {
        for &(algorithm, dataset, values) in DRAWS_OF_2020 {
            let drawn = Hparams::new(Kind { algorithm, dataset, preset: Preset::Db2020 }, 1, 0);
            for &(name, want) in values {
                let got = drawn.f64(name);
                assert!((got / want - 1.0).abs() < 1e-13 || got == want, "{name}: {got} for {want}");
            }
        }
    }

    #[test]
    fn every_algorithm_has_its_hyper_parameters() {
        use crate::domainbed::{Setup, algorithm, names};
        for name in names() {
            for seed in 0..3 {
                let drawn = hparams(name, seed, 1);
                let setup = Setup { hparams: &drawn, preset: Preset::Db2024, corrected: false, envs: 3 };
                algorithm(name, &setup).unwrap();
            }
        }
    }

    #[test]
    fn wrong_names_and_values_are_named() {
        let mut hparams = hparams("ERM", 0, 0);
        hparams.set("lr", json!(1)).unwrap();
        assert_eq!(hparams.f32("lr"), 1.0);
        hparams.set("irm_lambda", json!(1)).unwrap();
        assert!(!hparams.0.contains_key("irm_lambda"));
        let error = |h: &mut Hparams, name, value| h.set(name, value).unwrap_err().to_string();
        assert!(error(&mut hparams, "zzz", json!(1)).contains("no hyper-parameter zzz: there are data_aug"));
        assert_eq!(
            error(&mut hparams, "weight_deca", json!(1)),
            "no hyper-parameter weight_deca: did you mean weight_decay?"
        );
        assert_eq!(
            error(&mut hparams, "batch_size", json!(0.5)),
            "hyper-parameter batch_size = 0.5: it must be like 32"
        );
    }
}
