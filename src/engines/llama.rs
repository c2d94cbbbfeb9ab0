//! A language model on a device: it reads tokens and continues them.

use super::load_weights;
use crate::core::{DType, Gpu, Graph, Init, Plan, Store, Weights, plan};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::models::llama::{LlamaConfig, llama};
use anyhow::{Result, bail};
use std::collections::HashMap;

/// Tokens of a prompt that one run of the model takes in.
const CHUNK: usize = 64;
/// Added to scores that a token must not see: e to this is 0.
const UNSEEN: f32 = -1e30;

/// A language model on a device, with the text it has read so far.
pub struct Llama {
    config: LlamaConfig,
    checkpoint: Checkpoint,
    /// Rows of each slice of the head's matrix: the whole may be more than the device lets a kernel see.
    slices: Vec<usize>,
    /// By the number of tokens that a run takes.
    plans: HashMap<usize, Plan>,
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
        let slices: Vec<Vec<u32>> = (0..vocab)
            .step_by(rows)
            .map(|start| (start as u32..vocab.min(start + rows) as u32).collect())
            .collect();
        let context = context.min(config.positions);

        // All that can be seen without the weights first.
        let (mut graphs, mut params) = (vec![], vec![]);
        for tokens in [CHUNK, 1] {
            let g = Graph::new(gpu.caps());
            let w = Weights::new(&g, dtype);
            let x = llama(&w, &config, g.input("tokens", &[tokens, hidden], DType::F32), context);
            for (i, slice) in slices.iter().enumerate() {
                let _scope = g.scope("lm_head");
                let head = g.state(&format!("head.{i}"), &[slice.len(), hidden], dtype, Init::Loaded);
                g.output(&format!("logits.{i}"), g.linear(x, head, None));
            }
            plan::check(gpu, &g)?;
            params = w.params();
            graphs.push((tokens, g));
        }
        params.iter().try_for_each(|p| p.check(&checkpoint))?;
        checkpoint.check(head, &[vocab, hidden])?;

        let mut store = Store::new(gpu);
        for (i, ids) in slices.iter().enumerate() {
            let data = checkpoint.rows_f32(head, ids, &[vocab, hidden])?;
            store.write_as(&format!("head.{i}"), &[ids.len(), hidden], dtype, &data)?;
        }
        load_weights(&mut store, &checkpoint, &params)?;
        let plan = |(tokens, g)| Ok((tokens, Plan::new(gpu, g, &store)?));
        let plans = graphs.into_iter().map(plan).collect::<Result<_>>()?;
        let slices = slices.iter().map(Vec::len).collect();
        Ok(Llama { config, checkpoint, slices, plans, context, position: 0 })
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
        let mut out = Vec::new();
        let mut done = 0;
        while done < ids.len() {
            let tokens = if ids.len() - done > 1 { CHUNK } else { 1 };
            let now = &ids[done..ids.len().min(done + tokens)];
            self.run(now, tokens)?;
            if done + now.len() > from {
                self.logits(tokens, from.saturating_sub(done), now.len(), &mut out)?;
            }
            done += now.len();
        }
        Ok(out)
    }

    /// One run over `ids`, padded with zeros to `tokens`; what the padding leaves in the cache is masked, and overwritten later.
    fn run(&mut self, ids: &[u32], tokens: usize) -> Result<()> {
        let (c, start, context) = (&self.config, self.position, self.context);
        let mut x = self.checkpoint.rows_f32("model.embed_tokens.weight", ids, &[c.vocab_size, c.hidden])?;
        x.resize(tokens * c.hidden, 0.0);
        if c.embedding_scale != 1.0 {
            x.iter_mut().for_each(|v| *v *= c.embedding_scale);
        }
        let inputs = c.positions(start, tokens, context, UNSEEN);
        let plan = self.plans.get_mut(&tokens).expect("both plans are made at the start");
        plan.write("tokens", &x)?;
        inputs.iter().try_for_each(|(name, values)| plan.write(name, values))?;
        plan.write_u32("at", &[start as u32])?;
        plan.run()?;
        self.position += ids.len();
        Ok(())
    }

    /// Appends rows `first .. end` of the last run's logits to `out`.
    fn logits(&self, tokens: usize, first: usize, end: usize, out: &mut Vec<f32>) -> Result<()> {
        let plan = &self.plans[&tokens];
        let names = (0..self.slices.len()).map(|i| format!("logits.{i}"));
        let logits = names.map(|n| plan.read(&n)).collect::<Result<Vec<_>>>()?;
        for row in first..end {
            for (slice, &width) in logits.iter().zip(&self.slices) {
                out.extend(&slice[row * width..][..width]);
            }
        }
        Ok(())
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
