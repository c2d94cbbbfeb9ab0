//! `kaleid chat`

use anyhow::{Result, bail};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::folder::Folder;
use kaleid::data::rng::Key;
use kaleid::engines::chat::ChatModel;
use kaleid::engines::sampling::Sampling;
use kaleid::hub;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

/// Talk with a language model that runs here
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kaleid chat --llm SmolLM2-135M-Instruct.gguf --prompt 'Name three styles of painting.'
  kaleid chat --llm hf:Qwen/Qwen3-0.6B                       a line of input is a turn
  kaleid chat --llm base.gguf --raw --prompt 'Once upon a time' --temperature 0 --json")]
pub struct Args {
    /// A GGUF of Llama, Qwen2, Qwen3 or Gemma 3, a Hugging Face folder, or hf:OWNER/NAME; `local:` may stand before it
    #[arg(long, value_name = "FILE|DIR")]
    llm: String,
    /// What to say; without it, each line of input is a turn of the chat
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// No chat: the text of --prompt goes on, as models without tuning do it
    #[arg(long, requires = "prompt")]
    raw: bool,
    /// Most tokens of a reply
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// What logits are divided by before a token is drawn; 0: the likeliest always
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,
    /// Draw from the likeliest tokens that have this share of the probability
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    top_p: f32,
    /// Draw from this many of the likeliest tokens; 0: from all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Draw from tokens that have this share of the likeliest one's probability
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    min_p: f32,
    /// Make tokens that were there before less likely; 1: no
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Decides every draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Tokens of the whole chat that there is room for
    #[arg(long, value_name = "N", default_value_t = 2048)]
    context: usize,
    /// Print an object for each reply: prompt_ids, ids, text, tokens_per_second
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, gpu: &GpuOptions) -> Result<()> {
    let sampling = Sampling {
        most: args.max_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
    };
    let shares = [args.top_p, args.min_p].iter().all(|share| (0.0..=1.0).contains(share));
    if !(shares && args.temperature >= 0.0 && args.repetition_penalty > 0.0) {
        bail!(
            "--top-p and --min-p are shares from 0 to 1, --temperature is from 0, --repetition-penalty above 0"
        );
    }
    let path = hub::path(Path::new(args.llm.strip_prefix("local:").unwrap_or(&args.llm)))?;
    let gpu = Gpu::open(gpu)?;
    let dtype = gpu.caps().weights();
    let mut model = ChatModel::open(&gpu, &Folder::from(path.as_path()), args.context, dtype, args.raw)?;
    let turn = |model: &mut ChatModel, ids: &[u32], turn: u32| -> Result<String> {
        let (started, mut shown) = (Instant::now(), 0);
        let live = !args.json;
        let (said, _) =
            model_reply(model, ids, sampling, Key::new(args.seed, turn, "chat"), live, &mut shown)?;
        let text = model.decode(&said)?;
        let seconds = started.elapsed().as_secs_f64();
        match args.json {
            true => {
                let rate = said.len() as f64 / seconds;
                say!("{}", json!({"prompt_ids": ids, "ids": said, "text": text, "tokens_per_second": rate}))?;
            }
            false => say!("{}", text.get(shown..).unwrap_or_default())?,
        }
        Ok(text)
    };
    if let Some(prompt) = &args.prompt {
        let ids = if args.raw { model.text(prompt)? } else { model.chat(&[("user", prompt)])? };
        return turn(&mut model, &ids, 0).map(|_| ());
    }
    let mut chat: Vec<(&str, String)> = vec![];
    let mut lines = std::io::stdin().lock().lines();
    for i in 0.. {
        if std::io::stdin().is_terminal() {
            eprint!("> ");
        }
        let Some(line) = lines.next().transpose()? else { break };
        chat.push(("user", line));
        let messages: Vec<(&str, &str)> = chat.iter().map(|(role, text)| (*role, text.as_str())).collect();
        let ids = model.chat(&messages)?;
        let text = turn(&mut model, &ids, i)?;
        chat.push(("assistant", text.trim().to_string()));
    }
    Ok(())
}

/// A reply, printed as it comes where `live`; `shown` counts its bytes that are printed.
fn model_reply(
    model: &mut ChatModel,
    ids: &[u32],
    sampling: Sampling,
    key: Key,
    live: bool,
    shown: &mut usize,
) -> Result<(Vec<u32>, bool)> {
    model.go_on(ids, sampling, key, |text| {
        kaleid::progress::bail_if_stopped()?;
        if !live {
            return Ok(());
        }
        let text = text()?;
        // A character may be several tokens: what ends in half of one waits.
        if !text.ends_with('\u{fffd}') {
            print!("{}", text.get(*shown..).unwrap_or_default());
            std::io::stdout().flush()?;
            *shown = text.len();
        }
        Ok(())
    })
}
