//! Hyper-parameters as DomainBed draws them: seed 0 gives the defaults; another draws each from its own generator, seeded by
//! the name, so that new ones never change the others.

use crate::data::dataset::seed_hash;
use crate::data::rng::Mt19937;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// Named values.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams(pub Map<String, Value>);

/// How the default of a hyper-parameter and its random value are found.
type Rule = (&'static str, fn() -> Value, fn(&mut Mt19937) -> Value);

fn range(rng: &mut Mt19937, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.uniform()
}

/// Those that all algorithms share, for images of natural size.
const SHARED: &[Rule] = &[
    ("data_augmentation", || json!(true), |_| json!(true)),
    ("resnet_dropout", || json!(0.0), |r| json!(r.choice(&[0.0, 0.1, 0.5]))),
    ("class_balanced", || json!(false), |_| json!(false)),
    ("nonlinear_classifier", || json!(false), |_| json!(false)),
    ("lr", || json!(5e-5), |r| json!(10f64.powf(range(r, -5.0, -3.5)))),
    ("weight_decay", || json!(0.0), |r| json!(10f64.powf(range(r, -6.0, -2.0)))),
    ("batch_size", || json!(32), |r| json!(2f64.powf(range(r, 3.0, 5.5)) as u64)),
];

impl Hparams {
    /// The defaults (`hparams_seed` 0) or DomainBed's random draw.
    pub fn new(hparams_seed: u64, trial_seed: u64) -> Self {
        let seed = seed_hash(&format!("({hparams_seed}, {trial_seed})"));
        let value = |(name, default, random): &Rule| match hparams_seed {
            0 => default(),
            _ => random(&mut Mt19937::new(seed_hash(&format!("({seed}, '{name}')")))),
        };
        Hparams(SHARED.iter().map(|rule| (rule.0.to_string(), value(rule))).collect())
    }

    /// Sets one to a value of the same kind.
    ///
    /// # Errors
    /// A name that does not exist; a value of another kind; one that is not supported.
    pub fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let Some(old) = self.0.get_mut(name) else {
            let names: Vec<_> = self.0.keys().map(String::as_str).collect();
            bail!("no hyper-parameter {name}: there are {}", names.join(", "));
        };
        let same = match old {
            Value::Bool(_) => value.is_boolean(),
            Value::Number(n) if n.is_u64() => value.as_u64().is_some_and(|n| n > 0),
            _ => value.as_f64().is_some_and(|v| v.is_finite() && v >= 0.0),
        };
        if !same {
            bail!("hyper-parameter {name} = {value}: it must be like {old}");
        }
        if name == "nonlinear_classifier" && value == json!(true) {
            bail!("hyper-parameter {name} = true is not supported");
        }
        if name == "resnet_dropout" && value.as_f64() >= Some(1.0) {
            bail!("hyper-parameter resnet_dropout = {value}: it must be below 1");
        }
        *old = value;
        Ok(())
    }

    /// A number.
    #[track_caller]
    pub fn f32(&self, name: &str) -> f32 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no hyper-parameter {name}")) as f32
    }

    /// A count.
    #[track_caller]
    pub fn usize(&self, name: &str) -> usize {
        self.f32(name) as usize
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

    #[test]
    fn draws_equal_domainbeds() {
        let rows = [
            (1, 2.7028930742148706e-05, 0.00044832883881609976, 39, 0.5),
            (2, 5.6841898471378446e-05, 0.005100223533962902, 25, 0.5),
            (3, 6.801736841150391e-05, 1.046949588651311e-05, 34, 0.0),
        ];
        for (seed, lr, weight_decay, batch, dropout) in rows {
            let drawn = Hparams::new(seed, 0).0;
            let close = |name: &str, want: f64| (drawn[name].as_f64().unwrap() / want - 1.0).abs() < 1e-14;
            assert!(close("lr", lr) && close("weight_decay", weight_decay), "{drawn:?}");
            assert_eq!((&drawn["batch_size"], &drawn["resnet_dropout"]), (&json!(batch), &json!(dropout)));
        }
        assert_eq!(Hparams::new(0, 2).0["lr"], json!(5e-5));
    }

    #[test]
    fn wrong_names_and_values_are_named() {
        let mut hparams = Hparams::new(0, 0);
        hparams.set("lr", json!(1)).unwrap();
        assert_eq!(hparams.f32("lr"), 1.0);
        let error = |h: &mut Hparams, name, value| h.set(name, value).unwrap_err().to_string();
        assert!(
            error(&mut hparams, "learning", json!(1))
                .contains("no hyper-parameter learning: there are data_aug")
        );
        assert_eq!(
            error(&mut hparams, "batch_size", json!(0.5)),
            "hyper-parameter batch_size = 0.5: it must be like 32"
        );
        assert!(error(&mut hparams, "nonlinear_classifier", json!(true)).contains("not supported"));
    }
}
