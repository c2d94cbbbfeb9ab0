//! A language model that runs here.

use super::chat::{LanguageModel, Reply, Request};
use crate::core::{Gpu, GpuOptions};
use crate::data::folder::Folder;
use crate::data::rng::Key;
use crate::engines::chat::ChatModel;
use crate::engines::sampling::Sampling;
use crate::hub;
use anyhow::Result;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Tokens of a request with its reply.
const CONTEXT: usize = 1024;
const SAMPLING: Sampling =
    Sampling { most: 200, temperature: 0.8, top_p: 0.95, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 };

/// A model that runs here.
pub struct Local {
    name: String,
    folder: PathBuf,
    chat: RefCell<ChatModel>,
}

impl Local {
    /// Opens a folder as [`ChatModel::open`] does.
    ///
    /// # Errors
    /// No adapter, a model that does not open.
    pub fn open(folder: &Path, gpu: &GpuOptions) -> Result<Local> {
        let folder = hub::path(folder)?;
        let files = Folder::from(folder.as_path());
        let gpu = Gpu::open(gpu)?;
        let chat = RefCell::new(ChatModel::open(&gpu, &files, CONTEXT, gpu.caps().weights(), false)?);
        let folder = folder.canonicalize().unwrap_or(folder);
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Local { name, folder, chat })
    }
}

impl LanguageModel for Local {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn reply(&self, request: &Request, seed: u64, attempt: u32) -> Result<Reply> {
        let key = Key::new(seed, attempt, "reply");
        let said = self.chat.borrow_mut().reply(&[("user", request.text)], SAMPLING, key)?;
        Ok(match said.text {
            _ if said.cut => Reply::Nothing(format!("cut off after {} tokens", SAMPLING.most)),
            text => Reply::Text(text),
        })
    }
}
