//! A prompt for every image, and the files `domains.json` and `prompts.jsonl`.

use super::captions::data_uri;
use super::chat::{ATTEMPTS, Asked, Chat, LanguageModel, Request};
use super::domains::NewDomain;
use super::images::Image;
use super::labels::{CLASS, DOMAIN, Labels};
use super::reply::description;
use super::template::{Label, TEMPLATE};
use crate::data::write_atomic;
use crate::paint::origins::named;
use crate::paint::picture::Picture;
use crate::progress::Progress;
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// What [`super::run`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of prompts.
    pub prompts: usize,
    /// Folder names of the new domains.
    pub new_domains: Vec<String>,
    /// Prompts that the template wrote because no reply would do.
    pub fallbacks: usize,
    /// Prompts of a model that an earlier image of the same class and style has, word for word.
    pub copies: usize,
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
    #[serde(flatten)]
    asked: Option<Origin<'a>>,
}

/// Where a prompt comes from, when a model was asked for it.
#[derive(Serialize)]
struct Origin<'a> {
    /// `model` or `template`.
    origin: &'static str,
    /// How often the model was asked.
    tries: u32,
    /// Why its last reply would not do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Asks a model for the prompts of images, in these attempts.
pub type Describe<'a> = &'a dyn Fn(&[&Image], Range<u32>, &Progress) -> Result<Vec<Asked<String>>>;

impl Labels<'_> {
    /// Writes both files. `describe` asks a model for prompts; without one, and where its replies will not do, the grammar writes. Prompts of
    /// one's own go before both.
    pub fn write(&self, writer: &str, new: &[NewDomain], describe: Option<Describe>) -> Result<Summary> {
        let describe = describe.filter(|_| self.templates.is_empty());
        let images = self.images(new);
        if images.is_empty() {
            bail!("a share of {} gives no image; choose a larger one", self.settings.writing.share);
        }
        let progress = Progress::new("prompts", images.len() as u64, "prompts");
        let asked = describe.map(|describe| describe_all(&images, describe, &progress)).transpose()?;
        let (mut lines, mut reasons) = (String::new(), BTreeMap::<&str, usize>::new());
        for (i, image) in images.iter().enumerate() {
            let asked = asked.as_ref().map(|asked| &asked[i]);
            let prompt = asked.and_then(|a| a.good.as_ref().ok());
            let reason = asked.and_then(|a| a.good.as_ref().err()).map(String::as_str);
            if let Some(reason) = reason {
                *reasons.entry(reason).or_default() += 1;
            }
            let (domain, class) = (&image.domain.folder, &image.class.folder);
            let picture = Picture {
                file_name: format!("{domain}/{class}/{:05}.png", image.number),
                prompt: prompt.cloned().unwrap_or_else(|| self.by_template(image)),
                seed: Some(self.seed(image)),
                domain: Some(domain.clone()),
                class: Some(class.clone()),
                init: None,
                described: self.original(image).filter(|_| prompt.is_some()).map(named),
            };
            let origin = if prompt.is_some() { "model" } else { "template" };
            let row = Row {
                picture,
                written_by: if prompt.is_some() { writer } else { TEMPLATE },
                fallback: reason.is_some(),
                asked: asked.map(|a| Origin { origin, tries: a.tries, reason }),
            };
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
        let summary = Summary {
            prompts: images.len(),
            new_domains: new.iter().map(|n| n.label.folder.clone()).collect(),
            fallbacks: reasons.values().sum(),
            copies: asked.as_ref().map_or(0, |asked| copies(&images, asked).len()),
        };
        tell(&summary, &reasons);
        Ok(summary)
    }

    /// A model's prompt for an image, or why none of its replies will do.
    pub fn ask_prompt<M: LanguageModel>(
        &self,
        chat: &Chat<M>,
        image: &Image,
        attempts: Range<u32>,
        fits: impl Fn(&str) -> bool,
        progress: &Progress,
    ) -> Result<Asked<String>> {
        let (class, domain) = (&image.class.name, &image.domain.name);
        let picture = self.original(image).map(data_uri).transpose()?;
        let wanted = match picture {
            None => {
                "I want to generate a sentence/description which contains the classname and one of domain styles above. Please \
                 make sure the description has a certain degree of variation and with about 40 words."
            }
            Some(_) => {
                "The picture shows the class. I want to paint what it shows in the domain style. Please describe what there is to \
                 see, its pose, its surroundings and where things are, in a sentence of about 40 words which contains the class \
                 name and the domain style, and does not say what the picture was made with."
            }
        };
        let text = format!("'[class_name] = {class}; [domain style] = {domain}'. {wanted}");
        let request = Request { text: &text, picture: picture.as_deref() };
        let asked =
            chat.ask(&request, self.seed(image), attempts, |reply| description(reply, class, domain, &fits))?;
        progress.inc(1);
        Ok(asked)
    }

    fn by_template(&self, image: &Image) -> String {
        let key = self.key(image, "prompt");
        match self.templates.len() {
            0 => self.grammar.prompt(image.domain, image.class, key),
            n => {
                let own = &self.templates[key.below(0, n as u32) as usize];
                own.replace(CLASS, &image.class.name).replace(DOMAIN, &image.domain.name)
            }
        }
    }
}

/// Asks for each image, and once more where the sentence is one that an earlier image of the same class and style has.
fn describe_all(images: &[Image], describe: Describe, progress: &Progress) -> Result<Vec<Asked<String>>> {
    let mut asked = describe(&images.iter().collect::<Vec<_>>(), ATTEMPTS, progress)?;
    let again = copies(images, &asked);
    let of: Vec<&Image> = again.iter().map(|&i| &images[i]).collect();
    if of.is_empty() {
        return Ok(asked);
    }
    let progress = Progress::new("repeated", of.len() as u64, "prompts");
    let replies = describe(&of, ATTEMPTS.end..ATTEMPTS.end + 1, &progress)?;
    progress.finish();
    for (i, new) in again.into_iter().zip(replies) {
        asked[i].tries += new.tries;
        if new.good.is_ok() {
            asked[i].good = new.good;
        }
    }
    Ok(asked)
}

/// Images whose prompt an earlier one of the same class and style has.
fn copies(images: &[Image], asked: &[Asked<String>]) -> Vec<usize> {
    let mut seen = HashMap::new();
    let key =
        |i: usize| Some((&images[i].domain.folder, &images[i].class.folder, asked[i].good.as_ref().ok()?));
    (0..images.len()).filter(|&i| key(i).is_some_and(|key| seen.insert(key, ()).is_some())).collect()
}

/// Says what did not come from the model, loudly where that is most of it.
fn tell(summary: &Summary, reasons: &BTreeMap<&str, usize>) {
    let Summary { prompts, fallbacks, copies, .. } = summary;
    if *fallbacks > 0 {
        let mut often: Vec<_> = reasons.iter().map(|(why, n)| (*n, *why)).collect();
        often.sort_by_key(|(n, why)| (std::cmp::Reverse(*n), *why));
        let more = if often.len() > 3 { ", .." } else { "" };
        let often: Vec<String> = often.iter().take(3).map(|(n, why)| format!("{n}: {why}")).collect();
        let most = if 2 * fallbacks > *prompts { "MOST PROMPTS ARE NOT THE MODEL'S: " } else { "" };
        let often = often.join(", ");
        eprintln!(
            "warning: {most}{fallbacks} of {prompts} are the template's, since replies would not do ({often}{more})"
        );
    }
    if *copies > 0 {
        eprintln!(
            "warning: {copies} of {prompts} prompts repeat another of the same class and style word for word: does the server heed seed and temperature?"
        );
    }
}
