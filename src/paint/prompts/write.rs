//! A prompt for every image, and the files `domains.json` and `prompts.jsonl`.

use super::chat::{Chat, LanguageModel};
use super::domains::NewDomain;
use super::images::Image;
use super::labels::Labels;
use super::reply::description;
use super::template::{Label, TEMPLATE};
use crate::data::write_atomic;
use crate::paint::picture::Picture;
use crate::progress::Progress;
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

/// What [`super::run`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of prompts.
    pub prompts: usize,
    /// Folder names of the new domains.
    pub new_domains: Vec<String>,
    /// Prompts that the template wrote because no reply would do.
    pub fallbacks: usize,
}

/// A row of `prompts.jsonl`.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    picture: Picture,
    written_by: &'a str,
    /// Whether the grammar stepped in for a model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fallback: bool,
}

impl Labels<'_> {
    /// Writes both files. `describe` gives the prompts that a model wrote; the grammar writes those that are missing.
    pub fn write(
        &self,
        writer: &str,
        new: &[NewDomain],
        describe: impl FnOnce(&[Image], &Progress) -> Result<Vec<Option<String>>>,
    ) -> Result<Summary> {
        let images = self.images(new);
        if images.is_empty() {
            bail!("a share of {} gives no image; choose a larger one", self.settings.writing.share);
        }
        let progress = Progress::new("prompts", images.len() as u64, "prompts");
        let prompts = describe(&images, &progress)?;
        let (mut lines, mut fallbacks) = (String::new(), 0);
        for (image, prompt) in images.iter().zip(prompts) {
            let fallback = prompt.is_none() && writer != TEMPLATE;
            fallbacks += usize::from(fallback);
            let (domain, class) = (&image.domain.folder, &image.class.folder);
            let written_by = if prompt.is_some() { writer } else { TEMPLATE };
            let picture = Picture {
                file_name: format!("{domain}/{class}/{:05}.png", image.number),
                prompt: prompt.unwrap_or_else(|| self.by_template(image)),
                seed: Some(self.seed(image)),
                domain: Some(domain.clone()),
                class: Some(class.clone()),
            };
            let row = Row { picture, written_by, fallback };
            lines += &serde_json::to_string(&row)?;
            lines.push('\n');
        }
        let labels =
            |domains: &[(Label, Vec<usize>)]| domains.iter().map(|d| d.0.clone()).collect::<Vec<_>>();
        let domains = json!({"original": labels(&self.originals), "held_out": labels(&self.held_out), "new": new,
            "written_by": writer});
        write_atomic(self.settings.out.join("domains.json"), format!("{domains:#}\n").as_bytes())?;
        write_atomic(self.settings.out.join("prompts.jsonl"), lines.as_bytes())?;
        progress.finish();
        let new_domains = new.iter().map(|n| n.label.folder.clone()).collect();
        Ok(Summary { prompts: images.len(), new_domains, fallbacks })
    }

    /// A model's prompt for an image; nothing if none of its replies will do.
    pub fn ask_prompt<M: LanguageModel>(
        &self,
        chat: &Chat<M>,
        image: &Image,
        progress: &Progress,
    ) -> Result<Option<String>> {
        let (class, domain) = (&image.class.name, &image.domain.name);
        let request = format!(
            "'[class_name] = {class}; [domain style] = {domain}'. I want to generate a sentence/description which contains \
             the classname and one of domain styles above. Please make sure the description has a certain degree of variation \
             and with about 40 words."
        );
        let prompt = chat.ask(&request, self.seed(image), |reply| description(reply, class, domain))?;
        progress.inc(1);
        Ok(prompt)
    }

    fn by_template(&self, image: &Image) -> String {
        self.grammar.prompt(image.domain, image.class, self.key(image, "prompt"))
    }
}
