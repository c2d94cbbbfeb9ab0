//! Asking a language model. Every reply is kept on disk, so that a resumed run does not ask, or pay, twice.

use crate::data::write_atomic;
use crate::progress::bail_if_stopped;
use anyhow::Result;
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;

/// What a model gives back.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A text.
    Text(String),
    /// No text of any use, and why: it refused, or ran out of tokens.
    Nothing(String),
}

/// What a model is asked.
pub struct Request<'a> {
    /// In words.
    pub text: &'a str,
    /// About this picture, a data URI.
    pub picture: Option<&'a str>,
}

/// Something that replies.
pub trait LanguageModel {
    /// Its name, as it stands in the files.
    fn name(&self) -> &str;
    /// Where it is.
    fn place(&self) -> String;
    /// A reply. `seed` and `attempt` tell equal requests apart.
    fn reply(&self, request: &Request, seed: u64, attempt: u32) -> Result<Reply>;
}

/// A model with the replies that it has given.
pub struct Chat<'a, M> {
    /// Who replies.
    pub model: &'a M,
    /// Folder of the replies.
    pub cache: PathBuf,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked<T> {
    /// What was made of the reply, or why the last one would not do.
    pub good: Result<T, String>,
    /// How often it was asked.
    pub tries: u32,
}

/// A request is made anew once if its reply will not do.
pub const ATTEMPTS: Range<u32> = 0..2;

impl<M: LanguageModel> Chat<'_, M> {
    /// What `accept` makes of the reply, which may say why it is of no use; asks again for each of `attempts`.
    ///
    /// # Errors
    /// A model that does not reply at all, a folder that cannot be written, Ctrl-C.
    pub fn ask<T>(
        &self,
        request: &Request,
        seed: u64,
        attempts: Range<u32>,
        mut accept: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<Asked<T>> {
        let mut asked = Asked { good: Err(String::new()), tries: 0 };
        for attempt in attempts {
            asked.tries += 1;
            asked.good = match self.reply(request, seed, attempt)? {
                Reply::Text(reply) => accept(&reply),
                Reply::Nothing(why) => Err(why),
            };
            if asked.good.is_ok() {
                break;
            }
        }
        Ok(asked)
    }

    /// The reply on disk, else a new one.
    fn reply(&self, request: &Request, seed: u64, attempt: u32) -> Result<Reply> {
        bail_if_stopped()?;
        let mut entry = json!({"model": self.model.name(), "url": self.model.place(), "request": request.text,
            "seed": seed, "attempt": attempt});
        if let Some(picture) = request.picture {
            entry["picture"] = format!("{:x}", md5::compute(picture)).into();
        }
        let file = self.cache.join(format!("{:x}.json", md5::compute(entry.to_string())));
        let kept = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        if let Some(reply) = kept.as_ref().and_then(|kept| kept["reply"].as_str()) {
            return Ok(Reply::Text(reply.into()));
        }
        let reply = self.model.reply(request, seed, attempt)?;
        if let Reply::Text(text) = &reply {
            entry["reply"] = json!(text);
            write_atomic(&file, format!("{entry:#}\n").as_bytes())?;
        }
        Ok(reply)
    }
}
