//! What to write prompts for, and how.

use crate::flags;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to write prompts for, and how: flags of `kaleid prompts`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct Prompting {
    /// The originals: ROOT/DOMAIN/CLASS/image.
    #[arg(long, value_name = "ROOT")]
    pub data: PathBuf,
    /// Folder for domains.json and prompts.jsonl; the same command resumes a run that was stopped.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Domain for the test, whose style stays unseen and of which no language model hears; may be given again.
    #[arg(long, value_name = "DOMAIN")]
    pub hold_out: Vec<String>,
    /// Decides every draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How they are written.
    #[command(flatten)]
    pub writing: Writing,
}

impl Prompting {
    /// The paper's settings: two new domains, half as many images as there are; written by the template.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Prompting {
        let writing = Writing::default();
        Prompting { data: data.into(), out: out.into(), hold_out: vec![], seed: 0, writing }
    }
}

/// How prompts are written: flags of `kaleid prompts`, and the table `[prompts]` of run.toml.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Writing {
    /// Who writes: template (no network), openai:MODEL (key in OPENAI_API_KEY), the URL of a server that speaks chat completions
    /// (http://localhost:8080/v1; key, if any, in KALEID_LLM_KEY or OPENAI_API_KEY), or local:DIR, a Llama or Qwen2 tuned for
    /// instructions, run here.
    #[arg(long, value_name = "WHO", default_value = "template")]
    pub llm: String,
    /// Name of the model behind a URL [default: default].
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Number of new domains.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub new: usize,
    /// Names of the new domains, instead of asking for them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "new")]
    pub domains: Vec<String>,
    /// Images to come for each image there is; a new domain has the mean size of the original ones.
    #[arg(long, default_value_t = 0.5)]
    pub share: f64,
    /// Prompts of one's own, a line each, with {class} and {domain} for the names: each image takes one by its seed. Who writes then only
    /// names the new domains.
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Ask for a description of an original with each prompt: one of its class, and of its domain where that has some, which a server is
    /// shown whose model sees pictures (`image_url`). What was painted by it counts as painted from that original.
    #[arg(long, conflicts_with = "templates")]
    pub captions: bool,
    /// What the images to come make even, together with those there are; their number stays the same.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "none")]
    pub balance: Balance,
    /// Longest wait for a server's reply; slow machines with long queues need more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub timeout: f64,
    /// Also write prompts in the styles of the domains for the test.
    #[arg(long)]
    pub include_test_style: bool,
}

/// What the images to come make even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// Nothing: as many of each class and domain as their shares of the originals.
    #[default]
    None,
    /// The classes of each domain.
    Class,
    /// The sizes of domains.
    Domain,
    /// Sizes of domains, and the classes of each.
    Both,
}

impl Balance {
    /// Whether classes are made even.
    pub fn classes(self) -> bool {
        matches!(self, Balance::Class | Balance::Both)
    }

    /// Whether domains are.
    pub fn domains(self) -> bool {
        matches!(self, Balance::Domain | Balance::Both)
    }
}

impl Default for Writing {
    fn default() -> Writing {
        flags::parse(&[])
    }
}
