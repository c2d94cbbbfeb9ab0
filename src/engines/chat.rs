//! A chat with a language model that runs here: its own chat template, tokenizer and stop tokens around [`Llama`].

use super::llama::{Llama, sample};
use crate::core::{DType, Gpu};
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::rng::Key;
use crate::data::tokenizer::Tokenizer;
use crate::data::{one_line, text};
use anyhow::{Context, Result, anyhow, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value as Jinja, context};
use serde_json::Value;

/// How replies are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Most tokens of a reply.
    pub most: usize,
    /// 0: the likeliest token always.
    pub temperature: f32,
    /// Share of the probability that tokens are drawn from.
    pub top_p: f32,
}

/// An instruction-tuned model in a Hugging Face folder.
pub struct ChatModel {
    llama: Llama,
    tokenizer: Tokenizer,
    template: Template,
    stop: Vec<u32>,
}

impl ChatModel {
    /// Opens a folder with config.json, weights, tokenizer.json and a chat template, with room for `context` tokens.
    ///
    /// # Errors
    /// A missing or broken file, a model that is not supported, one without a chat template that renders.
    pub fn open(gpu: &Gpu, folder: &Folder, context: usize, dtype: DType) -> Result<ChatModel> {
        let config = Config::of(folder)?;
        let template = Template::open(folder)?;
        let tokenizer = Tokenizer::open(folder)?;
        let mut stop = ends(&config)?;
        if folder.has("generation_config.json") {
            let name = folder.name("generation_config.json");
            stop.extend(ends(&Config::parse(name, &folder.text("generation_config.json")?)?)?);
        }
        stop.extend(tokenizer.id(&template.eos));
        let llama = Llama::new(gpu, &config, folder.weights()?, context, dtype)?;
        Ok(ChatModel { llama, tokenizer, template, stop })
    }

    /// The model's reply to messages (role, content), roles being `system`, `user` and `assistant`; drawn from the stream
    /// `key`, so that equal calls give equal replies.
    ///
    /// # Errors
    /// A text that is too long; a template that refuses these messages; a device that fails.
    pub fn reply(&mut self, messages: &[(&str, &str)], sampling: Sampling, key: Key) -> Result<Said> {
        let prompt = self.tokenizer.encode_raw(&self.template.render(messages)?)?;
        self.llama.reset();
        let (mut drawn, mut cut) = (0, true);
        let ids = self.llama.generate(&prompt, sampling.most, |logits| {
            drawn += 1;
            let id = sample(logits, sampling.temperature, sampling.top_p, key.uniform(drawn - 1));
            cut = !self.stop.contains(&id);
            cut.then_some(id)
        })?;
        Ok(Said { text: self.tokenizer.decode(&ids)?.trim().to_string(), cut })
    }
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
        // As it will be used: what it asks of this program shows now, before weights are read.
        template.render(&[("user", "Hi")])?;
        Ok(template)
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
