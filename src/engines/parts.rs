//! Where the parts of a Stable Diffusion come from: a folder in diffusers' layout, one file with all of them, or files and folders of
//! their own.

use super::options::{Lora, Options};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::tokenizer::{CLIP, OPEN_CLIP};
use crate::hub;
use crate::models::clip::{self, TextConfig};
use crate::models::inversion::Inversion;
use crate::models::ldm::{self, Found};
use crate::models::lora::{self, Merged};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A part: its configuration, and where its weights are.
#[derive(Clone)]
pub(super) struct Part {
    pub config: Config,
    weights: Source,
}

#[derive(Clone)]
enum Source {
    Folder(Folder),
    Open(Rc<Checkpoint>),
}

impl Part {
    fn of(folder: &Folder) -> Result<Part> {
        Ok(Part { config: Config::of(folder)?, weights: Source::Folder(folder.clone()) })
    }

    /// Its weights, of which the header is read.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn weights(&self) -> Result<Rc<Checkpoint>> {
        match &self.weights {
            Source::Folder(folder) => Ok(Rc::new(folder.weights()?)),
            Source::Open(checkpoint) => Ok(checkpoint.clone()),
        }
    }
}

impl From<Found> for Part {
    fn from(Found { config, weights }: Found) -> Part {
        Part { config, weights: Source::Open(Rc::new(weights)) }
    }
}

/// The parts of a model; their configurations are read, their weights not yet.
#[derive(Clone)]
pub(super) struct Parts {
    pub unet: Part,
    pub vae: Part,
    pub text: Part,
    pub scheduler: Config,
    pub tokenizer: Folder,
    /// Words that prompts may use.
    pub words: Vec<Inversion>,
    /// What is to be said of what was merged.
    pub remarks: Vec<String>,
}

impl Parts {
    /// Those of a folder in diffusers' layout, whatever else it lacks.
    ///
    /// # Errors
    /// A file that is missing or broken.
    pub fn of_folder(folder: &Folder) -> Result<Parts> {
        let scheduler = folder.sub("scheduler");
        let file = "scheduler_config.json";
        Ok(Parts {
            unet: Part::of(&folder.sub("unet"))?,
            vae: Part::of(&folder.sub("vae"))?,
            text: Part::of(&folder.sub("text_encoder"))?,
            scheduler: Config::parse(scheduler.name(file), &scheduler.text(file)?)?,
            tokenizer: folder.sub("tokenizer"),
            words: vec![],
            remarks: vec![],
        })
    }

    /// Those of a folder or file, but for what `options` name instead.
    ///
    /// # Errors
    /// A file that is missing, broken, or of another model; a part that nothing brings.
    pub fn open(model: &Folder, options: &Options) -> Result<Parts> {
        let local = |path: &PathBuf| hub::path(path);
        let vae = options.vae.as_ref().map(|path| own_vae(&local(path)?)).transpose()?;
        let text = options.text_encoder.as_ref().map(|path| own_text(&local(path)?)).transpose()?;
        let file = match model {
            Folder::Disk(path) if path.is_file() => Some(path),
            Folder::Disk(path) if !path.is_dir() => {
                bail!(
                    "{}: no such file or folder; a model is a folder in diffusers' layout, or one file",
                    path.display()
                )
            }
            _ => None,
        };
        let mut parts = match file {
            Some(file) => single(file, vae, text)?,
            None => {
                for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
                    if !model.has(part) {
                        bail!("{}: not a Stable Diffusion folder: it has no {part}", model.name(""));
                    }
                }
                let mut parts = Parts::of_folder(model)?;
                parts.vae = vae.unwrap_or(parts.vae);
                if let Some((text, tokenizer)) = text {
                    (parts.text, parts.tokenizer) = (text, tokenizer.unwrap_or(parts.tokenizer));
                }
                parts
            }
        };
        if let Some(kind) = options.prediction_type {
            parts.scheduler = parts.scheduler.with("prediction_type", kind.name());
        }
        if options.clip_skip != 1 {
            let config = &parts.text.config;
            let layers = config.usize("num_hidden_layers", 12)?;
            let Some(left) =
                (layers + 1).checked_sub(options.clip_skip).filter(|&left| (1..=layers).contains(&left))
            else {
                bail!("--clip-skip {}: the text encoder has {layers} layers", options.clip_skip);
            };
            parts.text.config = config.with("num_hidden_layers", left);
        }
        parts.merge(&options.lora)?;
        let width = TextConfig::new(&parts.text.config)?.hidden_size();
        let open = |path: &PathBuf| Inversion::open(&hub::path(path)?, width);
        parts.words = options.embedding.iter().map(open).collect::<Result<_>>()?;
        Ok(parts)
    }

    /// Merges LoRAs into UNet and text encoder.
    fn merge(&mut self, loras: &[Lora]) -> Result<()> {
        if loras.is_empty() {
            return Ok(());
        }
        let mut unet = (*self.unet.weights()?).clone();
        let mut text = clip::modern_names((*self.text.weights()?).clone());
        for Lora { path, weight, .. } in loras {
            let Merged { applied, total, unknown } =
                lora::merge(&hub::path(path)?, *weight, &mut unet, &mut text)?;
            let but = match applied < total {
                true => format!("; the model has no {}", unknown.join(", ")),
                false => String::new(),
            };
            self.remarks
                .push(format!("{}: {applied} of {total} layers merged, {weight} times{but}", path.display()));
        }
        self.unet.weights = Source::Open(Rc::new(unet));
        self.text.weights = Source::Open(Rc::new(text));
        Ok(())
    }
}

/// The parts in one file.
fn single(file: &Path, vae: Option<Part>, text: Option<(Part, Option<Folder>)>) -> Result<Parts> {
    let checkpoint = Checkpoint::open(file)?;
    let name = file.display();
    if let Some(what) = ldm::other_model(&checkpoint) {
        bail!("{name}: {what}, not Stable Diffusion 1 or 2");
    }
    let Some(unet) = ldm::unet(&checkpoint)? else {
        let alone = match (ldm::vae(&checkpoint)?.is_some(), ldm::text(&checkpoint)?.is_some()) {
            (true, _) => "an autoencoder alone: --vae takes it",
            (_, true) => "a text encoder alone: --text-encoder takes it",
            _ => "no UNet of Stable Diffusion in it",
        };
        bail!("{name}: {alone}");
    };
    let vae = match vae {
        Some(vae) => vae,
        None => of_file(ldm::vae(&checkpoint)?).with_context(|| {
            format!("{name}: no autoencoder in it: give one with --vae; that of any Stable Diffusion will do")
        })?,
    };
    let (text, tokenizer) = match text {
        Some(text) => text,
        None => {
            let found = of_file(ldm::text(&checkpoint)?)
                .with_context(|| format!("{name}: no text encoder in it: give one with --text-encoder"))?;
            (found, None)
        }
    };
    let scheduler = ldm::scheduler(&checkpoint, &unet.config)?;
    let tokenizer = tokenizer.unwrap_or(clip_tokenizer(&text.config)?);
    Ok(Parts { unet: unet.into(), vae, text, scheduler, tokenizer, words: vec![], remarks: vec![] })
}

fn of_file(found: Option<Found>) -> Option<Part> {
    found.map(Part::from)
}

/// The tokenizer that a text encoder without one was trained with: OpenCLIP's, with another padding, has the other activation.
fn clip_tokenizer(config: &Config) -> Result<Folder> {
    Ok(Folder::from(if config.str("hidden_act", "quick_gelu")? == "gelu" { OPEN_CLIP } else { CLIP }))
}

/// The folder of a part at `path`: itself, or one inside it.
fn folder_of(path: &Path, part: &str) -> Folder {
    let folder = Folder::from(path);
    if folder.has(part) { folder.sub(part) } else { folder }
}

/// An autoencoder in a file or folder of its own.
fn own_vae(path: &Path) -> Result<Part> {
    if path.is_dir() {
        return Part::of(&folder_of(path, "vae"));
    }
    let checkpoint = Checkpoint::open(path)?;
    of_file(ldm::vae(&checkpoint)?).with_context(|| format!("{}: no autoencoder in it", path.display()))
}

/// A text encoder in a file or folder of its own, and its tokenizer, if it brings one.
fn own_text(path: &Path) -> Result<(Part, Option<Folder>)> {
    if path.is_dir() {
        let (text, tokenizer) = (folder_of(path, "text_encoder"), folder_of(path, "tokenizer"));
        return Ok((Part::of(&text)?, Some(tokenizer).filter(|folder| folder.has("merges.txt"))));
    }
    let checkpoint = Checkpoint::open(path)?;
    let text = of_file(ldm::text(&checkpoint)?);
    let text = text.with_context(|| format!("{}: no text encoder in it", path.display()))?;
    let tokenizer = clip_tokenizer(&text.config)?;
    Ok((text, Some(tokenizer)))
}
