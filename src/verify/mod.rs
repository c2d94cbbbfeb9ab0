//! Runs models against reference tensors ("goldens"): those of a folder, or the small ones inside the program.
//!
//! A folder holds `NAME.safetensors` (inputs and outputs) beside a checkpoint folder `NAME/`, whose config.json names the
//! class; without that folder NAME is a full-size model whose weights are synthetic. `NAME.json` holds trajectories of
//! schedulers, draws of torch's generator, or token ids of texts, by the tokenizer in the folder `NAME/`.

mod clip;
pub mod domainbed;
pub mod golden;
mod llama;
mod resnet;
pub mod schedulers;
mod taesd;
mod unet;
mod vae;

use crate::core::{DType, Gpu};
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::rng::torch_randn;
use crate::data::tokenizer::Tokenizer;
use crate::engines::model::{SD15_UNET, SD15_VAE};
use anyhow::{Context, Result, anyhow, bail};
use golden::{Comparison, FORWARD, Golden, Runner};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

include!(concat!(env!("OUT_DIR"), "/goldens.rs"));

/// What runs a class, by `architectures` or `_class_name` of its config.json. Those of [`HALVES`] run in f16 as well.
const RUNNERS: &[(&str, Runner)] = &[
    ("AutoencoderKL", vae::compare),
    ("AutoencoderTiny", taesd::compare),
    ("CLIPModel", clip::compare),
    ("CLIPTextModel", clip::compare_text),
    ("LlamaForCausalLM", llama::compare),
    ("Qwen2ForCausalLM", llama::compare),
    ("Qwen3ForCausalLM", llama::compare),
    ("Gemma3ForCausalLM", llama::compare),
    ("ResNet", resnet::compare),
    ("UNet2DConditionModel", unet::compare),
];

/// Classes whose activations are f16 on a GPU.
const HALVES: &[&str] =
    &["AutoencoderKL", "AutoencoderTiny", "CLIPModel", "CLIPTextModel", "UNet2DConditionModel"];

/// Full-size models of synthetic weights, which have no folder beside them: name, class and configuration.
const FULL_SIZE: &[(&str, &str, &str)] = &[
    ("clip_vit_b32", "CLIPModel", "{}"),
    ("resnet18", "ResNet", r#"{"layers": [2, 2, 2, 2], "bottleneck": false, "num_classes": 7}"#),
    ("resnet18_batchnorm", "ResNet", r#"{"layers": [2, 2, 2, 2], "bottleneck": false, "num_classes": 7}"#),
    ("resnet50", "ResNet", r#"{"layers": [3, 4, 6, 3], "bottleneck": true, "num_classes": 7}"#),
    ("unet_sd15", "UNet2DConditionModel", SD15_UNET),
    ("vae_sd15", "AutoencoderKL", SD15_VAE),
];

/// What became of one golden.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All comparisons hold.
    Pass,
    /// One does not, or it could not be run: why.
    Fail(String),
}

/// One golden.
#[derive(Clone, Debug)]
pub struct Row {
    /// Stem of its file.
    pub name: String,
    /// Whether it holds.
    pub outcome: Outcome,
    /// Everything that was compared.
    pub comparisons: Vec<Comparison>,
    /// Time it took, compiling included.
    pub seconds: f64,
}

impl Row {
    /// The comparison that uses up most of its tolerance.
    pub fn worst(&self) -> Option<&Comparison> {
        let used = |c: &Comparison| if c.holds() { c.error / c.tolerance.max(1e-30) } else { f64::INFINITY };
        self.comparisons.iter().max_by(|a, b| used(a).total_cmp(&used(b)))
    }

    /// For `--json`.
    pub fn json(&self) -> Value {
        let (outcome, reason) = match &self.outcome {
            Outcome::Pass => ("PASS", None),
            Outcome::Fail(reason) => ("FAIL", Some(reason)),
        };
        let comparison = |c: &Comparison| {
            let error = if c.error.is_finite() { json!(c.error) } else { json!("infinite") };
            json!({"what": c.what, "error": error, "tolerance": c.tolerance})
        };
        let comparisons: Vec<Value> = self.comparisons.iter().map(comparison).collect();
        json!({"name": self.name, "outcome": outcome, "reason": reason, "comparisons": comparisons,
            "seconds": self.seconds})
    }
}

impl std::fmt::Display for Row {
    /// `clip_tiny              3.1e-7 of 1e-4   PASS  text_embeds, 1.2 s`
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let worst = self.worst();
        let errors = worst.map_or(String::new(), |c| format!("{:.1e} of {:.0e}", c.error, c.tolerance));
        write!(f, "{:22} {errors:16} ", self.name)?;
        match &self.outcome {
            Outcome::Pass => {
                write!(f, "PASS  {}, {:.1} s", worst.map_or("", |c| c.what.as_str()), self.seconds)
            }
            Outcome::Fail(reason) => write!(f, "FAIL  {reason}"),
        }
    }
}

/// Runs every golden of `folder`, or those inside the program, and hands each row to `report` as soon as it is there. With `half`, only
/// those of models whose activations are f16 on a GPU, in f16.
///
/// # Errors
/// A folder that cannot be read or holds no golden; those of `report`. A broken golden is a row, not an error.
pub fn verify(
    gpu: &Gpu,
    folder: Option<&Path>,
    half: bool,
    mut report: impl FnMut(&Row) -> Result<()>,
) -> Result<Vec<Row>> {
    let source = Source { folder: folder.map_or(Folder::from(GOLDENS), Folder::from), half };
    let mut names = source.goldens()?;
    if half {
        names.retain(|name| source.class(name).is_ok_and(|class| HALVES.contains(&class.as_str())));
    }
    if names.is_empty() {
        bail!("{}: no golden here (NAME.safetensors or NAME.json)", source.folder.name(""));
    }
    let mut rows = Vec::new();
    for name in names {
        let start = Instant::now();
        let result = guarded(|| source.run(gpu, &name));
        let (outcome, comparisons) = match result {
            Ok(all) => {
                let wrong: Vec<&str> = all.iter().filter(|c| !c.holds()).map(|c| c.what.as_str()).collect();
                let outcome = match (all.len(), wrong.len()) {
                    (0, _) => Outcome::Fail("nothing in it to compare".into()),
                    (_, 0) => Outcome::Pass,
                    _ => Outcome::Fail(wrong.join(", ")),
                };
                (outcome, all)
            }
            Err(e) => (Outcome::Fail(format!("{e:#}")), vec![]),
        };
        let row = Row { name, outcome, comparisons, seconds: start.elapsed().as_secs_f64() };
        report(&row)?;
        rows.push(row);
    }
    Ok(rows)
}

/// Runs `f`; an assertion that fails inside a model (a golden may hold any shape) becomes an error, and the others still run.
fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(f));
    std::panic::set_hook(hook);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(anyhow!("the model does not fit: {}", text.lines().next().unwrap_or_default()))
    })
}

/// A folder of goldens, or those inside the program.
struct Source {
    folder: Folder,
    half: bool,
}

impl Source {
    /// Names of all goldens: of files, and of checkpoint folders whose file is missing.
    fn goldens(&self) -> Result<BTreeSet<String>> {
        let stem = |entry: &String| {
            if let Some(name) = entry.strip_suffix(".json") {
                // The program's own table holds the data of other tests as well.
                let known = || self.json(entry).is_ok_and(|keys| kind(&keys).is_some());
                return (matches!(self.folder, Folder::Disk(_)) || known()).then(|| name.to_string());
            }
            let file = entry.strip_suffix(".safetensors");
            let folder = || self.folder.sub(entry).has("config.json").then_some(entry.as_str());
            file.or_else(folder).map(str::to_string)
        };
        Ok(self.folder.entries()?.iter().filter_map(stem).collect())
    }

    fn json(&self, file: &str) -> Result<Map<String, Value>> {
        match serde_json::from_slice(&self.folder.read(file)?) {
            Ok(Value::Object(keys)) => Ok(keys),
            Ok(_) => bail!("{file}: not a JSON object"),
            Err(e) => bail!("{file}: not valid JSON: {e}"),
        }
    }

    fn run(&self, gpu: &Gpu, name: &str) -> Result<Vec<Comparison>> {
        let (tensors, json) = (format!("{name}.safetensors"), format!("{name}.json"));
        match (self.folder.has(&tensors), self.folder.has(&json)) {
            (true, true) => {
                let keys = self.json(&json)?;
                if !domainbed::is_recording(&keys) {
                    bail!("{json}: no recording of DomainBed's algorithms");
                }
                domainbed::replay(gpu, &keys, &self.folder.tensors(&tensors)?)
            }
            (true, false) => self.run_model(gpu, name),
            (false, true) => self.run_json(name, &self.json(&json)?),
            (false, false) => bail!("{tensors} is missing"),
        }
    }

    /// The class of the model that a golden is of.
    fn class(&self, name: &str) -> Result<String> {
        match FULL_SIZE.iter().find(|(n, ..)| *n == name) {
            Some((_, class, _)) if !self.folder.has(name) => Ok(class.to_string()),
            _ => Config::of(&self.folder.sub(name))?.class(),
        }
    }

    fn run_model(&self, gpu: &Gpu, name: &str) -> Result<Vec<Comparison>> {
        let (class, config, folder) = if self.folder.has(name) {
            let folder = self.folder.sub(name);
            let config = Config::of(&folder)?;
            // The goldens of the program leave the weights out: they are synthetic as well.
            (config.class()?, config, Some(folder).filter(|f| matches!(f, Folder::Disk(_))))
        } else {
            let Some((_, class, config)) = FULL_SIZE.iter().find(|(n, ..)| *n == name) else {
                let known: Vec<&str> = FULL_SIZE.iter().map(|f| f.0).collect();
                bail!("no folder {name} beside it, and not one of {}", known.join(", "));
            };
            (class.to_string(), Config::parse(name, config)?, None)
        };
        let Some((_, runner)) = RUNNERS.iter().find(|(c, _)| *c == class) else {
            bail!("{}: the class {class} is not known", config.name());
        };
        let tensors = self.folder.tensors(&format!("{name}.safetensors"))?;
        let dtype = if self.half { DType::F16 } else { DType::F32 };
        let golden = Golden { name: name.to_string(), gpu: gpu.clone(), dtype, config, folder, tensors };
        runner(&golden)
    }

    fn run_json(&self, name: &str, keys: &Map<String, Value>) -> Result<Vec<Comparison>> {
        match kind(keys) {
            Some(Kind::Trajectories) => {
                let replay = |(run, record): (&String, &Value)| {
                    let error = schedulers::replay(run, record)?;
                    Ok(Comparison { what: run.clone(), error, tolerance: FORWARD })
                };
                keys.iter().map(replay).collect()
            }
            Some(Kind::Draws) => draws(name, keys),
            Some(Kind::Tokens) => self.tokens(name, keys),
            None => {
                bail!("{name}.json: neither trajectories of schedulers, draws of torch nor tokens of texts")
            }
        }
    }

    /// Token ids of texts, by the tokenizer in the folder NAME: `{"length": 77 or null, "tokens": {text: [id]}}`.
    fn tokens(&self, name: &str, keys: &Map<String, Value>) -> Result<Vec<Comparison>> {
        let mut tokenizer = Tokenizer::open(&self.folder.sub(name))?;
        if let Some(length) = keys.get("length").and_then(Value::as_u64) {
            tokenizer.pad_to(length as usize)?;
        }
        let Some(texts) = keys["tokens"].as_object() else { bail!("{name}.json: tokens is not an object") };
        let compare = |(text, ids): (&String, &Value)| {
            let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
            let want: Option<Vec<u32>> = ids.as_array().and_then(|ids| ids.iter().map(id).collect());
            let want = want.with_context(|| format!("{name}.json: {text:?} does not hold token ids"))?;
            let start: String = text.chars().take(40).collect();
            Ok(Comparison::exact(&format!("{start:?}"), &tokenizer.encode(text)?, &want))
        };
        texts.iter().map(compare).collect()
    }
}

/// Goldens in JSON.
enum Kind {
    Trajectories,
    Draws,
    Tokens,
}

/// The kind of a JSON golden, told by its keys.
fn kind(keys: &Map<String, Value>) -> Option<Kind> {
    let all = |f: fn(&str, &Value) -> bool| !keys.is_empty() && keys.iter().all(|(k, v)| f(k, v));
    if keys.contains_key("tokens") {
        Some(Kind::Tokens)
    } else if all(|_, v| v.get("trajectory").is_some()) {
        Some(Kind::Trajectories)
    } else {
        all(|k, _| k.parse::<u64>().is_ok()).then_some(Kind::Draws)
    }
}

/// torch.randn on the CPU: seed -> count -> values.
fn draws(name: &str, seeds: &Map<String, Value>) -> Result<Vec<Comparison>> {
    let mut out = Vec::new();
    for (seed, counts) in seeds {
        let broken = || format!("{name}.json: seed {seed} does not hold counts and their draws");
        for (n, values) in counts.as_object().with_context(broken)? {
            let values = values.as_array().with_context(broken)?;
            let want: Option<Vec<f32>> = values.iter().map(|v| v.as_f64().map(|f| f as f32)).collect();
            let (want, n) = (want.with_context(broken)?, n.parse::<usize>().with_context(broken)?);
            if want.len() != n {
                bail!("{}", broken());
            }
            let got = torch_randn(seed.parse()?, n);
            out.push(Comparison::new(&format!("seed {seed}, {n} values"), &got, &want, 1e-5));
        }
    }
    Ok(out)
}
