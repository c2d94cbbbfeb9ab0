//! Asking a language model. Every reply is kept on disk, so that a resumed run does not ask, or pay, twice.

use crate::data::write_atomic;
use crate::progress::bail_if_stopped;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Something that replies.
pub trait LanguageModel {
    /// Its name, as it stands in the files.
    fn name(&self) -> &str;
    /// Where it is.
    fn place(&self) -> String;
    /// A reply; nothing where the answer holds none. `seed` and `attempt` tell equal requests apart.
    fn reply(&self, request: &str, seed: u64, attempt: u32) -> Result<Option<String>>;
}

/// A model with the replies that it has given.
pub struct Chat<'a, M> {
    /// Who replies.
    pub model: &'a M,
    /// Folder of the replies.
    pub cache: PathBuf,
}

impl<M: LanguageModel> Chat<'_, M> {
    /// What `accept` makes of the reply. If that is nothing, asks once more, then gives up.
    ///
    /// # Errors
    /// A model that does not reply at all, a folder that cannot be written, Ctrl-C.
    pub fn ask<T>(
        &self,
        request: &str,
        seed: u64,
        mut accept: impl FnMut(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        for attempt in 0..2 {
            let reply = self.reply(request, seed, attempt)?;
            if let Some(good) = reply.and_then(|reply| accept(&reply)) {
                return Ok(Some(good));
            }
        }
        Ok(None)
    }

    /// The reply on disk, else a new one.
    fn reply(&self, request: &str, seed: u64, attempt: u32) -> Result<Option<String>> {
        bail_if_stopped()?;
        let mut entry = json!({"model": self.model.name(), "url": self.model.place(), "request": request,
            "seed": seed, "attempt": attempt});
        let file = self.cache.join(format!("{:x}.json", md5::compute(entry.to_string())));
        let kept = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        if let Some(reply) = kept.as_ref().and_then(|kept| kept["reply"].as_str()) {
            return Ok(Some(reply.into()));
        }
        let reply = self.model.reply(request, seed, attempt)?;
        if let Some(reply) = &reply {
            entry["reply"] = json!(reply);
            write_atomic(&file, format!("{entry:#}\n").as_bytes())?;
        }
        Ok(reply)
    }
}
