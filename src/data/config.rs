//! `config.json` read key by key, so that a wrong value is an error that names the key and the value, and a key that
//! asks for something that is not implemented is refused, never ignored. Keys that are absent or null take the class's default.

use super::folder::Folder;
use super::text::{self, whole};
use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

/// One JSON object of a configuration, and its name for error messages (`unet/config.json`, `config.json: text_config`).
#[derive(Clone, Debug)]
pub struct Config {
    name: String,
    keys: Map<String, Value>,
}

impl Config {
    /// `config.json` of a folder, which may be one inside the program.
    pub fn of(folder: &Folder) -> Result<Config> {
        Config::parse(folder.name("config.json"), &folder.text("config.json")?)
    }

    /// Reads JSON text; `name` says in error messages where it comes from.
    pub fn parse(name: impl Into<String>, text: &str) -> Result<Config> {
        let name = name.into();
        match text::json(text) {
            Ok(Value::Object(keys)) => Ok(Config { name, keys }),
            Ok(_) => bail!("{name}: not a JSON object"),
            Err(e) => bail!("{name}: not valid JSON: {e}"),
        }
    }

    /// The same object with another value of `key`.
    pub fn with(&self, key: &str, value: impl Into<Value>) -> Config {
        let mut config = self.clone();
        config.keys.insert(key.to_string(), value.into());
        config
    }

    /// The value of `key`, or None where it is absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|v| !v.is_null())
    }

    /// Whether `key` is there but null, for the few keys where that does not mean the class's default.
    pub fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    /// The nested object `key`; empty, so that every class default holds, where it is absent.
    pub fn sub(&self, key: &str) -> Result<Config> {
        let keys = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(keys)) => keys.clone(),
            Some(v) => return Err(self.wrong(key, v, "an object")),
        };
        Ok(Config { name: format!("{}: {key}", self.name), keys })
    }

    /// A size or count, at least 1. Pass a default, or None when the key must be there.
    pub fn usize(&self, key: &str, default: impl Into<Option<usize>>) -> Result<usize> {
        self.read(key, default, "a whole number from 1", size)
    }

    /// How often something is repeated, at most `most`: a model of a billion layers would fill the memory before its weights are
    /// found to be missing.
    pub fn count(&self, key: &str, default: impl Into<Option<usize>>, most: usize) -> Result<usize> {
        let what = format!("a whole number from 1 to {most}");
        self.read(key, default, &what, |v| size(v).filter(|&n| n <= most))
    }

    /// A token id or another whole number that may be 0.
    pub fn u32(&self, key: &str, default: impl Into<Option<u32>>) -> Result<u32> {
        self.read(key, default, "a whole number from 0", |v| whole(v).and_then(|n| n.try_into().ok()))
    }

    /// A finite number, where f32 would lose digits that matter.
    pub fn f64(&self, key: &str, default: impl Into<Option<f64>>) -> Result<f64> {
        self.read(key, default, "a number", Value::as_f64)
    }

    /// A finite number.
    pub fn f32(&self, key: &str, default: impl Into<Option<f32>>) -> Result<f32> {
        self.read(key, default, "a number", |v| v.as_f64().map(|f| f as f32).filter(|f| f.is_finite()))
    }

    /// A finite number above 0: an epsilon, a factor that is divided by.
    pub fn positive(&self, key: &str, default: impl Into<Option<f32>>) -> Result<f32> {
        self.read(key, default, "a number above 0", |v| {
            v.as_f64().map(|f| f as f32).filter(|f| f.is_finite() && *f > 0.0)
        })
    }

    /// true or false.
    pub fn bool(&self, key: &str, default: impl Into<Option<bool>>) -> Result<bool> {
        self.read(key, default, "true or false", Value::as_bool)
    }

    /// A text.
    pub fn str(&self, key: &str, default: impl Into<Option<&'static str>>) -> Result<String> {
        self.read(key, default.into().map(str::to_string), "a text", |v| v.as_str().map(str::to_string))
    }

    /// A list of sizes, each at least 1; never empty.
    pub fn usizes(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        let default = (!default.is_empty()).then(|| default.to_vec());
        self.read(key, default, "a list of whole numbers from 1", |v| list(v, size))
    }

    /// A list of texts; never empty.
    pub fn strs(&self, key: &str, default: &[&str]) -> Result<Vec<String>> {
        let default = (!default.is_empty()).then(|| default.iter().map(|s| s.to_string()).collect());
        self.read(key, default, "a list of texts", |v| list(v, |v| v.as_str().map(str::to_string)))
    }

    /// Fails unless `key` is absent or holds one of the values we implement (`Value::Null` for null).
    pub fn only(&self, key: &str, supported: &[Value]) -> Result<()> {
        match self.keys.get(key) {
            Some(v) if !supported.iter().any(|s| same(s, v)) => Err(self.unsupported(key, v.clone())),
            _ => Ok(()),
        }
    }

    /// `NAME: key = value is not supported`, for a value that a model reads but does not implement.
    pub fn unsupported(&self, key: &str, value: impl Into<Value>) -> anyhow::Error {
        anyhow!("{}: {key} = {} is not supported", self.name, value.into())
    }

    /// The class of the model: `_class_name` (diffusers) or the first of `architectures` (transformers).
    pub fn class(&self) -> Result<String> {
        if self.get("_class_name").is_some() {
            return self.str("_class_name", None);
        }
        Ok(self.strs("architectures", &[])?.swap_remove(0))
    }

    /// What the error messages call this object.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn read<T>(
        &self,
        key: &str,
        default: impl Into<Option<T>>,
        what: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.get(key) {
            Some(v) => convert(v).ok_or_else(|| self.wrong(key, v, what)),
            None => {
                default.into().ok_or_else(|| anyhow!("{}: {key} is missing; it must be {what}", self.name))
            }
        }
    }

    fn wrong(&self, key: &str, value: &Value, what: &str) -> anyhow::Error {
        anyhow!("{}: {key} = {value} must be {what}", self.name)
    }
}

/// At least 1, and small enough that a product of a few sizes does not overflow.
fn size(v: &Value) -> Option<usize> {
    whole(v).filter(|n| (1..1 << 30).contains(n)).map(|n| n as usize)
}

fn list<T>(v: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    v.as_array().filter(|a| !a.is_empty())?.iter().map(item).collect()
}

/// Equal values; 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|x| b.as_f64() == Some(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error<T: std::fmt::Debug>(r: Result<T>) -> String {
        r.unwrap_err().to_string()
    }

    #[test]
    fn values_defaults_and_errors() {
        let c = Config::parse(
            "config.json",
            r#"{"hidden_size": 64, "eps": 1e-5, "act": "gelu", "none": null, "zero": 0, "widths": [1, 2], "one": 1.0, "kind": "x",
                "text_config": {"hidden_size": -3}}"#,
        )
        .unwrap();
        assert_eq!(c.usize("hidden_size", 8).unwrap(), 64);
        assert_eq!(c.usize("none", 8).unwrap(), 8);
        assert_eq!(c.f32("eps", None).unwrap(), 1e-5);
        assert_eq!(c.str("act", "relu").unwrap(), "gelu");
        assert_eq!(c.usizes("widths", &[]).unwrap(), [1, 2]);
        assert_eq!(c.u32("zero", None).unwrap(), 0);
        c.only("one", &[json!(1)]).unwrap();
        c.only("absent", &[json!(1)]).unwrap();
        assert_eq!(error(c.only("kind", &[Value::Null])), r#"config.json: kind = "x" is not supported"#);
        assert_eq!(error(c.usize("zero", 8)), "config.json: zero = 0 must be a whole number from 1");
        assert_eq!(error(c.f32("gone", None)), "config.json: gone is missing; it must be a number");
        assert!(
            error(c.sub("text_config").unwrap().usize("hidden_size", 1))
                .starts_with("config.json: text_config: hidden_size = -3")
        );
        assert!(error(Config::parse("config.json", "[1]")).contains("not a JSON object"));
    }
}
