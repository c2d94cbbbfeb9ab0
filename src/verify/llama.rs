//! Language models against transformers'.

use super::golden::{Comparison, Golden};
use crate::core::DType;
use crate::engines::llama::{Llama, argmax};
use anyhow::Result;

/// input_ids -> the logits after each token, and what greedy decoding writes.
///
/// # Errors
/// A golden that lacks what it should hold.
pub fn compare(golden: &Golden) -> Result<Vec<Comparison>> {
    let ([batch, length], ids) = golden.ids("input_ids")?;
    let greedy = golden.tensors.contains("greedy").then(|| golden.ids::<2>("greedy")).transpose()?;
    let most = greedy.as_ref().map_or(0, |([_, total], _)| total.saturating_sub(length));
    let mut llama = Llama::new(&golden.gpu, &golden.config, golden.weights()?, length + most, DType::F32)?;
    let (mut logits, mut written) = (Vec::new(), Vec::new());
    for prompt in ids.chunks_exact(length) {
        llama.reset();
        logits.extend(llama.read_each(prompt)?);
        llama.reset();
        written.extend(prompt);
        if most > 0 {
            written.extend(llama.generate(prompt, most, |logits| Some(argmax(logits)))?);
        }
    }
    debug_assert_eq!(ids.len(), batch * length);
    let mut out = vec![golden.compare("logits", &logits)?];
    out.extend(greedy.map(|(_, want)| Comparison::exact("greedy", &written, &want)));
    Ok(out)
}
