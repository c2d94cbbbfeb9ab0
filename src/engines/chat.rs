//! Texts and chats with a language model that runs here: its own chat template, tokenizer and stop tokens around [`Llama`].

use super::llama::Llama;
use super::sampling::Sampling;
use crate::core::{DType, Gpu};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::gguf_tokenizer::Gguf;
use crate::data::rng::Key;
use crate::data::tokenizer::Tokenizer;
use crate::data::{one_line, text};
use crate::models::gguf;
use anyhow::{Context, Result, anyhow, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value as Jinja, context};
use serde_json::Value;
use std::path::Path;

/// A language model with its tokenizer and, if it was tuned for them, what makes a text of a chat.
pub struct ChatModel {
    llama: Llama,
    tokenizer: Tokenizer,
    template: Option<Template>,
    stop: Vec<u32>,
}

/// The parts of a language model, as its files have them.
struct Files {
    config: Config,
    weights: Checkpoint,
    tokenizer: Tokenizer,
    template: Result<Template>,
    stop: Vec<u32>,
}

impl ChatModel {
    /// Opens a folder with config.json, weights, tokenizer.json and a chat template, or a GGUF, with room for `context` tokens. With
    /// `raw`, there need be no template, and texts go on as they are.
    ///
    /// # Errors
    /// A missing or broken file, a model that is not supported, one without a chat template that renders.
    pub fn open(gpu: &Gpu, folder: &Folder, context: usize, dtype: DType, raw: bool) -> Result<ChatModel> {
        let files = match folder {
            Folder::Disk(path) if path.is_file() => of_gguf(path)?,
            _ => of_folder(folder)?,
        };
        let template = if raw { None } else { Some(files.template?) };
        let Files { config, weights, tokenizer, stop, .. } = files;
        let llama = Llama::new(gpu, &config, weights, context, dtype)?;
        Ok(ChatModel { llama, tokenizer, template, stop })
    }

    /// The tokens of a chat so far, up to where the model speaks: messages (role, content), roles being `system`, `user` and
    /// `assistant`.
    ///
    /// # Errors
    /// A template that refuses these messages, or none.
    pub fn chat(&self, messages: &[(&str, &str)]) -> Result<Vec<u32>> {
        let template =
            self.template.as_ref().context("a model without a chat template only goes on with texts")?;
        self.tokenizer.encode_raw(&template.render(messages)?)
    }

    /// The tokens of a text to go on with.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// What follows `prompt`: its tokens, and whether it was cut off before the model ended it. Drawn from the stream `key`, so that
    /// equal calls give equal replies; `each` is called after every token, and may ask for the text that
    /// there is.
    ///
    /// # Errors
    /// A text that is too long; a device that fails; an error of `each`.
    pub fn go_on(
        &mut self,
        prompt: &[u32],
        sampling: Sampling,
        key: Key,
        mut each: impl FnMut(&dyn Fn() -> Result<String>) -> Result<()>,
    ) -> Result<(Vec<u32>, bool)> {
        self.llama.reset();
        let (mut before, mut cut, mut said) = (prompt.to_vec(), true, Ok(()));
        let ids = self.llama.generate(prompt, sampling.most, |logits| {
            let drawn = (before.len() - prompt.len()) as u32;
            let id = sampling.draw(logits, &before, key.uniform(drawn));
            cut = !self.stop.contains(&id);
            before.push(id);
            if cut {
                said = each(&|| self.tokenizer.decode(&before[prompt.len()..]));
            }
            (cut && said.is_ok()).then_some(id)
        })?;
        said.map(|()| (ids, cut))
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// Tokens that are none.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids)
    }

    /// The model's reply to messages, as [`ChatModel::chat`] and [`ChatModel::go_on`] have them.
    ///
    /// # Errors
    /// As these.
    pub fn reply(&mut self, messages: &[(&str, &str)], sampling: Sampling, key: Key) -> Result<Said> {
        let (ids, cut) = self.go_on(&self.chat(messages)?, sampling, key, |_| Ok(()))?;
        Ok(Said { text: self.decode(&ids)?.trim().to_string(), cut })
    }
}

fn of_folder(folder: &Folder) -> Result<Files> {
    let (config, tokenizer) = (Config::of(folder)?, Tokenizer::open(folder)?);
    let mut stop = ends(&config)?;
    if folder.has("generation_config.json") {
        let name = folder.name("generation_config.json");
        stop.extend(ends(&Config::parse(name, &folder.text("generation_config.json")?)?)?);
    }
    let template = Template::open(folder);
    stop.extend(template.as_ref().ok().and_then(|template| tokenizer.id(&template.eos)));
    Ok(Files { config, weights: folder.weights()?, tokenizer, template, stop })
}

/// Names of tokens that end a turn, whatever else a GGUF says (llama.cpp's list).
const ENDS: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"];

fn of_gguf(path: &Path) -> Result<Files> {
    let file = Checkpoint::open(path)?;
    let (name, header) = (file.name().to_string(), file.header().clone());
    let tokenizer = Tokenizer::of_gguf(&name, &header)?;
    let gguf = Gguf::new(&header)?;
    let special = |which: &str| gguf.special(which).unwrap_or_default().to_string();
    let ends = ["eos", "eot", "eom"].into_iter().filter_map(|which| gguf.special(which));
    let stop = ends.chain(ENDS).filter_map(|token| tokenizer.id(token)).collect();
    let source = header.get("tokenizer.chat_template").and_then(Value::as_str).map(str::to_string);
    let template = source
        .with_context(|| {
            format!("{name}: no chat template in it; choose a model that was tuned for instructions")
        })
        .and_then(|source| Template::new(name.clone(), source, special("bos"), special("eos")))
        .and_then(Template::tried);
    let (config, weights) = gguf::open(file)?;
    Ok(Files { config, weights, tokenizer, template, stop })
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it says.
    pub text: String,
    /// Whether it was cut off before the model ended it.
    pub cut: bool,
}

/// `eos_token_id`: one id or a list.
fn ends(config: &Config) -> Result<Vec<u32>> {
    match config.get("eos_token_id") {
        None => Ok(vec![]),
        Some(Value::Array(ids)) => {
            let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            ids.with_context(|| format!("{}: eos_token_id does not hold token ids", config.name()))
        }
        Some(_) => Ok(vec![config.u32("eos_token_id", None)?]),
    }
}

/// A chat template in Jinja, from messages to the text that the model was trained on.
struct Template {
    name: String,
    compiled: Environment<'static>,
    bos: String,
    eos: String,
}

impl Template {
    fn open(folder: &Folder) -> Result<Template> {
        let name = folder.name("tokenizer_config.json");
        let config: Value = text::json(&folder.text("tokenizer_config.json")?)
            .map_err(|e| anyhow!("{name}: not valid JSON: {e}"))?;
        let token = |key: &str| {
            let token = &config[key];
            token.as_str().or(token["content"].as_str()).unwrap_or_default().to_string()
        };
        let named = || {
            let all = config["chat_template"].as_array()?;
            all.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str())
        };
        let source = if let Some(source) = config["chat_template"].as_str().or_else(named) {
            source.to_string()
        } else if folder.has("chat_template.jinja") {
            folder.text("chat_template.jinja")?
        } else {
            bail!("{name}: no chat_template; choose a model that was tuned for instructions");
        };
        let template = Template::new(name, source, token("bos_token"), token("eos_token"))?;
        template.tried()
    }

    /// Itself, after it was used as it will be: what it asks of this program shows now, before weights are read.
    fn tried(self) -> Result<Template> {
        self.render(&[("user", "Hi")])?;
        Ok(self)
    }

    fn new(name: String, source: String, bos: String, eos: String) -> Result<Template> {
        let mut compiled = Environment::new();
        compiled.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        let refuse = |text: String| Err::<Jinja, _>(Error::new(ErrorKind::InvalidOperation, text));
        compiled.add_function("raise_exception", refuse);
        // A fixed day, so that equal calls give equal replies: the one that Llama's templates name where they cannot ask.
        compiled.add_function("strftime_now", |_form: String| "26 Jul 2024");
        // Templates call methods of Python's strings and dictionaries.
        compiled.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let added = compiled.add_template_owned(TEMPLATE, without_generation(&source));
        added.map_err(|e| anyhow!("{name}: chat_template: {}", one_line(&e.to_string())))?;
        Ok(Template { name, compiled, bos, eos })
    }

    fn render(&self, messages: &[(&str, &str)]) -> Result<String> {
        let messages: Vec<_> = messages.iter().map(|&(role, content)| context! { role, content }).collect();
        let values = context! {
            messages, add_generation_prompt => true, bos_token => self.bos.as_str(), eos_token => self.eos.as_str(),
            tools => (), documents => (),
        };
        let text = self.compiled.get_template(TEMPLATE).and_then(|template| template.render(values));
        text.map_err(|e| anyhow!("{}: chat_template: {}", self.name, one_line(&e.to_string())))
    }
}

/// What the template is called inside its environment.
const TEMPLATE: &str = "chat_template";

/// A template whose `{% generation %}` tags, by which training tells the model's own words from others, are plain blocks that print what
/// is inside.
fn without_generation(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some((before, after)) = rest.split_once("{%") {
        let Some((tag, behind)) = after.split_once("%}") else { break };
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let tag = match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_string(),
        };
        out += &format!("{before}{{%{tag}%}}");
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String> {
        let token = |t: &str| t.to_string();
        Template::new(token("tokenizer_config.json"), token(source), token("<s>"), token("</s>"))?
            .render(messages)
    }

    #[test]
    fn templates_render_as_in_python() {
        let chatml = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}\
            {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        assert_eq!(
            render(chatml, &[("user", "Hi")]).unwrap(),
            "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        let blocks = "{%- if tools %}\n    {{- tools | tojson }}\n{%- endif %}\n{%- for m in messages[1:] %}\n\
            {%- if m.content.strip().startswith('a') and not m.tool_calls %}\n{{- bos_token + m.content.split(' ')[-1] + eos_token }}\n\
            {%- endif %}\n{%- endfor %}\n";
        assert_eq!(render(blocks, &[("system", "x"), ("user", " a b")]).unwrap(), "<s>b</s>");
        let training = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}\
            {% else %}{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(render(training, &[("user", "Hi")]).unwrap(), "Hi");
        assert_eq!(render(training, &[("user", "Hi"), ("assistant", " yes")]).unwrap(), "Hi yes");
        assert_eq!(render("a {%- generation -%} b {%- endgeneration +%} c", &[]).unwrap(), "ab c");
        let more = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}\
            {% if tools is not none %}tools{% endif %}{{ strftime_now('%d %b %Y') }}";
        let said = render(more, &[("user", "Hi"), ("user", "no")]).unwrap();
        assert!(said.contains("\"content\"") && said.ends_with("}26 Jul 2024"), "{said}");
        let refused = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(
            refused.starts_with("tokenizer_config.json: chat_template:") && refused.contains("alternate")
        );
        assert!(!render("{% if %}", &[]).unwrap_err().to_string().contains('\n'));
    }
}
