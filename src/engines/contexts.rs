//! Contexts of prompts: what the UNet attends to. They are read before they are needed, so that the text encoder does not have to stay on
//! the device beside what paints.

use super::clip::TextEncoder;
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Context, Result};
use std::collections::HashMap;

/// Most prompts that are read at once: the contexts of 512 take 118 MiB of the host's memory.
const AHEAD: usize = 512;

/// A text encoder, and what it has read.
pub(super) struct Contexts {
    pub text: TextEncoder,
    /// How often it reads for a prompt.
    chunks: usize,
    known: HashMap<String, Vec<f32>>,
}

impl Contexts {
    pub fn new(text: TextEncoder, chunks: usize) -> Contexts {
        Contexts { text, chunks, known: HashMap::new() }
    }

    /// Whether it has read all of them.
    pub fn knows(&self, prompts: &[&str]) -> bool {
        prompts.iter().all(|prompt| self.known.contains_key(*prompt))
    }

    /// Reads `prompts`, and of those that are `coming` after them as many as it keeps. What it knew before is forgotten.
    ///
    /// # Errors
    /// As [`TextEncoder::encode`]; Ctrl-C.
    pub fn read<'p>(&mut self, prompts: &[&str], coming: impl Iterator<Item = &'p str>) -> Result<()> {
        self.known.clear();
        let coming: Vec<&str> = coming.take(AHEAD).collect();
        let progress = Progress::new("prompts", (prompts.len() + coming.len()) as u64, "prompts");
        for prompt in prompts.iter().copied().chain(coming) {
            if !self.known.contains_key(prompt) {
                self.known.insert(prompt.into(), self.text.encode(&[prompt], self.chunks)?);
                bail_if_stopped()?;
            }
            progress.inc(1);
        }
        progress.finish();
        Ok(())
    }

    /// The context of a prompt that was read: (chunks * tokens, width).
    ///
    /// # Errors
    /// One that was not.
    pub fn of(&self, prompt: &str) -> Result<&[f32]> {
        let context = self.known.get(prompt).map(Vec::as_slice);
        context.with_context(|| format!("the prompt {prompt:?} was not read"))
    }

    /// Numbers in a context.
    pub fn length(&self) -> usize {
        self.text.shape().iter().product::<usize>() * self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Gpu, GpuOptions};
    use crate::data::folder::Folder;
    use crate::engines::model::Model;
    use crate::engines::options::Options;
    use std::path::Path;

    #[test]
    fn prompts_to_come_are_read_with_the_first_that_is_not_known() {
        let folder = Folder::from(Path::new("weights/demo/stable-diffusion"));
        let model = Model::open(&folder, &Options::default()).unwrap();
        let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
        let text = TextEncoder::of(&gpu, &model, gpu.caps().weights()).unwrap();
        let prompts: Vec<String> = (0..AHEAD + 8).map(|i| format!("a dog, {i}")).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let mut contexts = Contexts::new(text, 1);
        assert!(!contexts.knows(&prompts[..1]));
        contexts.read(&prompts[..2], prompts[2..].iter().copied()).unwrap();
        assert!(contexts.knows(&prompts[..AHEAD + 2]) && !contexts.knows(&prompts[AHEAD + 2..AHEAD + 3]));
        let alone = contexts.text.encode(&prompts[5..6], 1).unwrap();
        assert_eq!(contexts.of(prompts[5]).unwrap(), alone);
        contexts.read(&prompts[AHEAD + 2..AHEAD + 3], prompts[AHEAD + 3..].iter().copied()).unwrap();
        assert!(contexts.knows(&prompts[AHEAD + 2..]) && !contexts.knows(&prompts[..1]));
    }
}
