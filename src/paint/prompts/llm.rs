//! Who writes prompts.

use super::server::Server;
use super::settings::Writing;
use crate::core::GpuOptions;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// Who writes.
pub enum Llm {
    /// The grammar.
    Template,
    /// A model behind a URL.
    Server(Server),
    /// A model that runs here.
    Local {
        /// Its Hugging Face folder.
        folder: PathBuf,
        /// The adapter.
        gpu: GpuOptions,
    },
}

impl Llm {
    /// The writer that is asked for. Keys come from the environment. Errors do not repeat `llm`: a URL may hold a secret.
    ///
    /// # Errors
    /// A text that names no writer; a key that is not set; a timeout that is none.
    pub fn parse(writing: &Writing, gpu: &GpuOptions) -> Result<Llm> {
        let parsed = Llm::named(writing, gpu)?;
        if writing.captions && !matches!(parsed, Llm::Server(_)) {
            bail!("captions are written by a server whose model sees pictures: openai:MODEL or a URL");
        }
        if writing.captions && writing.templates.is_some() {
            bail!("captions, and templates of one's own: choose one");
        }
        Ok(parsed)
    }

    fn named(Writing { llm, model, timeout, .. }: &Writing, gpu: &GpuOptions) -> Result<Llm> {
        let model = model.as_deref();
        let timeout = Duration::try_from_secs_f64(*timeout).ok().filter(|t| !t.is_zero());
        let Some(timeout) = timeout else { bail!("--timeout must be a number of seconds above 0") };
        let server = |base: &str, model: &str, key: Option<String>| -> Result<Server> {
            let mut server = Server::new(base, model, key.as_deref())?;
            server.timeout = timeout;
            Ok(server)
        };
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let is_url = llm.starts_with("http://") || llm.starts_with("https://");
        if model.is_some() && !is_url {
            bail!("a model's name goes with a URL; for OpenAI it is openai:MODEL");
        }
        Ok(match llm.split_once(':') {
            None if llm == "template" => Llm::Template,
            Some(("openai", model)) if !model.is_empty() => {
                let (base, key) = (set("OPENAI_BASE_URL"), set("OPENAI_API_KEY"));
                if base.is_none() && key.is_none() {
                    bail!("set OPENAI_API_KEY to your key");
                }
                let base = base.as_deref().unwrap_or("https://api.openai.com/v1");
                Llm::Server(server(base, model, key).context("OPENAI_BASE_URL, OPENAI_API_KEY")?)
            }
            Some(("local", folder)) if !folder.is_empty() => {
                Llm::Local { folder: folder.into(), gpu: gpu.clone() }
            }
            Some(("hf", _)) => Llm::Local { folder: llm.into(), gpu: gpu.clone() },
            Some(_) if is_url => {
                let key = set("KALEID_LLM_KEY").or_else(|| set("OPENAI_API_KEY"));
                Llm::Server(server(llm, model.unwrap_or("default"), key)?)
            }
            _ => {
                bail!(
                    "must be template, openai:MODEL, a URL such as http://localhost:8080/v1, local:DIR, or hf:OWNER/NAME"
                )
            }
        })
    }
}
