//! A language model on a device: it reads tokens and continues them.

use super::{load_weights, recorded};
use crate::core::{DType, Gpu, Init, Plan, Store, Weights, plan};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::models::llama::{LlamaConfig, llama};
use anyhow::{Result, bail};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Tokens of a prompt that one run of the model takes in.
const CHUNK: usize = 64;
/// Tokens that attention sees at least. As a text grows beyond, what it sees doubles: work follows what was read, not the room there is.
const SEEN: usize = 256;
/// Added to scores that a token must not see: e to this is 0.
const UNSEEN: f32 = -1e30;

/// What a plan is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Run {
    /// How many it takes in.
    tokens: usize,
    /// How many attention sees.
    seen: usize,
}

/// A language model on a device, with the text it has read so far.
pub struct Llama {
    config: LlamaConfig,
    checkpoint: Checkpoint,
    /// Rows of each slice of the head's matrix: the whole may be more than the device lets a kernel see.
    slices: Vec<usize>,
    gpu: Gpu,
    dtype: DType,
    store: Store,
    plans: HashMap<Run, Plan>,
    context: usize,
    position: usize,
}

impl Llama {
    /// A model with room for `context` tokens (at most as many as it was trained for); matrices are kept as `dtype`.
    ///
    /// # Errors
    /// A configuration that is not supported, a checkpoint that lacks a tensor, no device memory.
    pub fn new(
        gpu: &Gpu,
        config: &Config,
        checkpoint: Checkpoint,
        context: usize,
        dtype: DType,
    ) -> Result<Llama> {
        let config = LlamaConfig::new(config)?;
        let head = if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let (vocab, hidden) = (config.vocab_size, config.hidden);
        let rows = (gpu.caps().binding_bytes as usize / dtype.bytes(hidden) / 64 * 64).max(64);
        let slices: Vec<usize> = (0..vocab).step_by(rows).map(|start| rows.min(vocab - start)).collect();
        let context = context.min(config.positions);

        // All that can be seen without the weights first.
        let mut params = vec![];
        for tokens in [CHUNK, 1] {
            let run = Run { tokens, seen: context };
            let (g, asked) = recorded(gpu, dtype, |w| record(w, &config, &slices, context, run));
            plan::check(gpu, &g)?;
            params = asked;
        }
        params.iter().try_for_each(|p| p.check(&checkpoint))?;
        checkpoint.check(head, &[vocab, hidden])?;

        let mut store = Store::new(gpu);
        let mut start = 0;
        for (i, &length) in slices.iter().enumerate() {
            let ids: Vec<u32> = (start..start + length as u32).collect();
            let data = checkpoint.rows_f32(head, &ids, &[vocab, hidden])?;
            store.write_as(&format!("head.{i}"), &[length, hidden], dtype, &data)?;
            start += length as u32;
        }
        load_weights(&mut store, &checkpoint, &params)?;
        let (gpu, plans) = (gpu.clone(), HashMap::new());
        Ok(Llama { config, checkpoint, slices, gpu, dtype, store, plans, context, position: 0 })
    }

    /// What its config.json says.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Forgets what was read.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Reads tokens after those read before, and returns the logits of the next token, (vocab).
    ///
    /// # Errors
    /// More tokens than there is room for; an id beyond the vocabulary; a device that fails.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.read_from(ids, ids.len().saturating_sub(1))
    }

    /// [`Llama::read`], with the logits after each of `ids`, (ids, vocab).
    ///
    /// # Errors
    /// As [`Llama::read`].
    pub fn read_each(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.read_from(ids, 0)
    }

    /// The logits after `ids[from]` and those that follow.
    fn read_from(&mut self, ids: &[u32], from: usize) -> Result<Vec<f32>> {
        if self.position + ids.len() > self.context {
            let (read, more) = (self.position, ids.len());
            bail!("the text is too long: {read} tokens read and {more} to come, room for {}", self.context);
        }
        let slices = self.slices.clone();
        let (mut out, mut done) = (Vec::new(), 0);
        while done < ids.len() {
            let tokens = if ids.len() - done > 1 { CHUNK } else { 1 };
            let now = &ids[done..ids.len().min(done + tokens)];
            let plan = self.run(now, tokens)?;
            if done + now.len() > from {
                let logits = (0..slices.len()).map(|i| plan.read(&format!("logits.{i}")));
                let logits = logits.collect::<Result<Vec<_>>>()?;
                for row in from.saturating_sub(done)..now.len() {
                    let rows = logits.iter().zip(&slices);
                    rows.for_each(|(slice, &width)| out.extend(&slice[row * width..][..width]));
                }
            }
            done += now.len();
        }
        Ok(out)
    }

    /// One run over `ids`, padded with zeros to `tokens`; what the padding leaves in the cache is masked, and overwritten later.
    fn run(&mut self, ids: &[u32], tokens: usize) -> Result<&Plan> {
        let (c, start, context) = (&self.config, self.position, self.context);
        let mut x = self.checkpoint.rows_f32("model.embed_tokens.weight", ids, &[c.vocab_size, c.hidden])?;
        x.resize(tokens * c.hidden, 0.0);
        if c.embedding_scale != 1.0 {
            x.iter_mut().for_each(|v| *v *= c.embedding_scale);
        }
        let seen = SEEN.max((start + ids.len()).next_power_of_two()).min(context);
        let run = Run { tokens, seen };
        let inputs = c.positions(start, tokens, seen, UNSEEN);
        let plan = match self.plans.entry(run) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => {
                let (g, _) = recorded(&self.gpu, self.dtype, |w| record(w, c, &self.slices, context, run));
                place.insert(Plan::new(&self.gpu, g, &self.store)?)
            }
        };
        plan.write("tokens", &x)?;
        inputs.iter().try_for_each(|(name, values)| plan.write(name, values))?;
        plan.write_u32("at", &[start as u32])?;
        plan.run()?;
        self.position += ids.len();
        Ok(plan)
    }

    /// Reads `prompt` and continues it: `choose` picks each next token from the logits, until it returns None, `most` tokens are
    /// written, or there is no more room. Returns the new tokens.
    ///
    /// # Errors
    /// As [`Llama::read`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        most: usize,
        mut choose: impl FnMut(&[f32]) -> Option<u32>,
    ) -> Result<Vec<u32>> {
        if prompt.is_empty() {
            bail!("an empty prompt: there is nothing to go on from");
        }
        let mut out = Vec::new();
        let mut logits = self.read(prompt)?;
        while out.len() < most {
            let Some(next) = choose(&logits) else { break };
            out.push(next);
            if out.len() == most || self.position == self.context {
                break;
            }
            logits = self.read(&[next])?;
        }
        Ok(out)
    }
}

/// Records a run: `tokens`, `at` and what positions need -> `logits.I`, by slices of the head.
fn record(w: &Weights, config: &LlamaConfig, slices: &[usize], context: usize, run: Run) {
    let g = w.graph();
    let tokens = g.input("tokens", &[run.tokens, config.hidden], DType::F32);
    let x = llama(w, config, tokens, context, run.seen);
    for (i, &length) in slices.iter().enumerate() {
        let _scope = g.scope("lm_head");
        let head = g.state(&format!("head.{i}"), &[length, config.hidden], w.dtype(), Init::Loaded);
        g.output(&format!("logits.{i}"), g.linear(x, head, None));
    }
}

/// The token of the highest logit: greedy decoding.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}
