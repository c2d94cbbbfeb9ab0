//! A chat with a language model that runs here: its own chat template, tokenizer and stop tokens around [`Llama`].

use super::llama::{Llama, sample};
use crate::core::{DType, Gpu};
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::rng::Key;
use crate::data::tokenizer::Tokenizer;
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
    /// A missing or broken file, a model that is not supported, one without a chat template.
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
    pub fn reply(&mut self, messages: &[(&str, &str)], sampling: Sampling, key: Key) -> Result<String> {
        let prompt = self.tokenizer.encode_raw(&self.template.render(messages)?)?;
        self.llama.reset();
        let mut drawn = 0;
        let ids = self.llama.generate(&prompt, sampling.most, |logits| {
            drawn += 1;
            let id = sample(logits, sampling.temperature, sampling.top_p, key.uniform(drawn - 1));
            (!self.stop.contains(&id)).then_some(id)
        })?;
        Ok(self.tokenizer.decode(&ids)?.trim().to_string())
    }
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
    source: String,
    bos: String,
    eos: String,
}

impl Template {
    fn open(folder: &Folder) -> Result<Template> {
        let name = folder.name("tokenizer_config.json");
        let config: Value = serde_json::from_str(&folder.text("tokenizer_config.json")?)
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
        Ok(Template { name, source, bos: token("bos_token"), eos: token("eos_token") })
    }

    fn render(&self, messages: &[(&str, &str)]) -> Result<String> {
        let mut env = Environment::new();
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        let refuse = |text: String| Err::<Jinja, _>(Error::new(ErrorKind::InvalidOperation, text));
        env.add_function("raise_exception", refuse);
        // Templates call methods of Python's strings and dictionaries.
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let messages: Vec<_> = messages.iter().map(|&(role, content)| context! { role, content }).collect();
        let values = context! { messages, add_generation_prompt => true, bos_token => self.bos.as_str(), eos_token => self.eos.as_str() };
        let text = env.render_str(&self.source, values);
        text.map_err(|e| anyhow!("{}: chat_template: {}", self.name, e.to_string().replace('\n', " ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String> {
        let token = |t: &str| t.to_string();
        Template {
            name: token("tokenizer_config.json"),
            source: token(source),
            bos: token("<s>"),
            eos: token("</s>"),
        }
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
        let refused = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(
            refused.starts_with("tokenizer_config.json: chat_template:") && refused.contains("alternate")
        );
        assert!(!render("{% if %}", &[]).unwrap_err().to_string().contains('\n'));
    }
}
