//! How to paint: what is asked of a Stable Diffusion.

use crate::data::rng::Key;
use crate::diffusion;
use crate::flags;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How to paint: flags of `kaleid generate`, and the table `[images]` of run.toml.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Stable Diffusion 1 or 2: a folder in diffusers' layout, or one file (.safetensors, .ckpt, .gguf); `builtin` is the demo's small
    /// one.
    #[arg(long, value_name = "DIR|FILE")]
    pub model: PathBuf,
    /// Settings of a paper, where no others are given.
    #[arg(long, value_enum, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// Another autoencoder than the model's: its file or folder, or a folder with a `vae` in it.
    #[arg(long, value_name = "DIR|FILE")]
    pub vae: Option<PathBuf>,
    /// Another text encoder than the model's: its file or folder, or a folder with a `text_encoder` in it.
    #[arg(long, value_name = "DIR|FILE")]
    pub text_encoder: Option<PathBuf>,
    /// What the UNet predicts, where its files are wrong about it or do not say.
    #[arg(long, value_name = "KIND")]
    pub prediction_type: Option<PredictionType>,
    /// A LoRA, LyCORIS or DoRA to merge, with how much of it; may be given several times. With a domain in front, for the images of
    /// that domain only.
    #[arg(long, value_name = "[DOMAIN=]FILE[:WEIGHT]")]
    #[serde(deserialize_with = "loras", serialize_with = "texts")]
    pub lora: Vec<Lora>,
    /// A textual inversion: prompts call it by the name of its file; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub embedding: Vec<PathBuf>,
    /// Steps of the scheduler.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub steps: usize,
    /// Classifier-free guidance (Ho and Salimans 2022): low values give more varied images, 1 is without and twice as fast. Of several,
    /// each image takes one by its seed.
    #[arg(long, value_name = "SCALE[,..]", default_value = "2")]
    pub guidance: Choice,
    /// Bring the spread of guided predictions back to that of unguided ones, by this share (Lin et al. 2024): against washed-out or burnt
    /// pictures of models that predict velocity.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub guidance_rescale: f32,
    /// Take what the text encoder's K-th last layer makes, as models that were trained so want it; 1: the last.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub clip_skip: usize,
    /// What is done with prompts that are longer than the text encoder takes: `cut` them, as diffusers does, or read one `chunk` of
    /// them after the other, as AUTOMATIC1111's program.
    #[arg(long, value_enum, value_name = "HOW", default_value = "cut")]
    pub long_prompts: LongPrompts,
    /// Whose noise a seed means: that of torch on the CPU, as diffusers mostly has it, or on a card, as AUTOMATIC1111's program.
    #[arg(long, value_enum, default_value = "torch")]
    pub rng: Rng,
    /// Share of the steps that a picture which is painted from another goes through: 0 is that, 1 forgets it. Of several, each image takes
    /// one by its seed.
    #[arg(long, value_name = "SHARE[,..]", default_value = "0.8")]
    pub strength: Choice,
    /// Name of the scheduler.
    #[arg(long, value_name = "NAME", help = scheduler_help())]
    pub scheduler: Option<String>,
    /// Size of the images: 512, or WIDTHxHEIGHT (in run.toml: [height, width]) [default: what the model was trained on].
    #[arg(long, value_name = "PIXELS", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// Size of the files, if another than that of the images: these are resized by Pillow's bicubic filter.
    #[arg(long, value_name = "PIXELS", value_parser = parse_size)]
    pub saved_size: Option<[usize; 2]>,
    /// Images painted at once [default: as many as make half a megapixel, at most 16].
    #[arg(long, value_name = "N")]
    pub batch: Option<NonZeroUsize>,
    /// What the images should not show.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub negative: String,
}

/// Settings of a paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Fan et al. 2024, "Scaling laws of synthetic images for model training ... for now": DDIM at 512 pixels, saved at 256; 50 steps and
    /// a guidance of 2, which are the defaults, for prompts of classes (they took 1.5 for captions).
    Synth,
}

/// What is done with prompts that are longer than the text encoder takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongPrompts {
    /// Their ends are lost.
    #[default]
    Cut,
    /// They are read in pieces, whose contexts stand one behind the other. Where one of prompt and negative prompt is shorter, empty pieces
    /// follow it (AUTOMATIC1111's program does that with `pad_cond_uncond`; it also moves what stands behind a late comma to the next piece).
    Chunk,
}

/// A number, or several of which each image takes one. In text they stand between commas, in TOML in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice(Vec<f32>);

impl Choice {
    /// All that there are: at least one.
    pub fn all(&self) -> &[f32] {
        &self.0
    }

    /// The one of the image with this seed; `what` it is keeps one choice apart from another.
    pub fn of(&self, seed: u64, what: &str) -> f32 {
        let drawn = (Key::new(seed, 0, what).uniform(0) * self.0.len() as f32) as usize;
        self.0[drawn.min(self.0.len() - 1)]
    }
}

impl From<f32> for Choice {
    fn from(one: f32) -> Choice {
        Choice(vec![one])
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        let all = text.split(',').map(|number| number.trim().parse::<f32>());
        all.collect::<Result<_, _>>()
            .map(Choice)
            .map_err(|_| format!("{text:?} is no number, and no list of numbers between commas"))
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            One(f32),
            Several(Vec<f32>),
        }
        match Given::deserialize(deserializer)? {
            Given::One(one) => Ok(one.into()),
            Given::Several(all) if !all.is_empty() => Ok(Choice(all)),
            Given::Several(_) => Err(D::Error::custom("an empty list: nothing to choose from")),
        }
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0[..] {
            [one] => serializer.serialize_f32(one),
            _ => serializer.collect_seq(&self.0),
        }
    }
}

/// Whose noise a seed means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rng {
    /// torch's CPU generator.
    #[default]
    Torch,
    /// torch's CUDA generator.
    Cuda,
}

/// A file of differences to a model's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The domain for whose images it is, if not for all.
    pub domain: Option<String>,
    /// The file, or the folder of an adapter.
    pub path: PathBuf,
    /// How much of it is added.
    pub weight: f32,
}

impl FromStr for Lora {
    type Err = String;

    /// `[DOMAIN=]FILE[:WEIGHT]`; what is a file as a whole is that.
    fn from_str(text: &str) -> Result<Lora, String> {
        let (domain, rest) = match text.split_once('=') {
            Some((domain, rest)) if !Path::new(text).exists() => (Some(domain.to_string()), rest),
            _ => (None, text),
        };
        let weight =
            rest.rsplit_once(':').and_then(|(file, weight)| Some((file, weight.parse::<f32>().ok()?)));
        let (file, weight) = weight.filter(|_| !Path::new(rest).exists()).unwrap_or((rest, 1.0));
        if file.is_empty() || !weight.is_finite() {
            return Err(format!("{text:?} is no FILE or FILE:WEIGHT"));
        }
        Ok(Lora { domain, path: file.into(), weight })
    }
}

impl fmt::Display for Lora {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Lora { domain, path, weight } = self;
        let domain = domain.as_ref().map_or(String::new(), |domain| format!("{domain}="));
        write!(f, "{domain}{}:{weight}", path.display())
    }
}

/// A list of texts, or a table with a file for each domain.
fn loras<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Lora>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        List(Vec<String>),
        ByDomain(BTreeMap<String, String>),
    }
    let texts = match Given::deserialize(deserializer)? {
        Given::List(list) => list,
        Given::ByDomain(table) => {
            table.into_iter().map(|(domain, file)| format!("{domain}={file}")).collect()
        }
    };
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

fn texts<S: Serializer>(loras: &[Lora], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(loras.iter().map(Lora::to_string))
}

impl Options {
    /// The same with what the preset says.
    pub fn resolved(&self) -> Options {
        let mut options = self.clone();
        if options.preset == Some(Preset::Synth) {
            options.scheduler.get_or_insert_with(|| "ddim".into());
            options.size.get_or_insert([512; 2]);
            options.saved_size.get_or_insert([256; 2]);
        }
        options
    }

    /// How to paint the images of a domain: with the LoRAs for all and those for it.
    pub fn for_domain(&self, domain: Option<&str>) -> Options {
        let mut options = self.clone();
        options.lora.retain(|lora| lora.domain.is_none() || lora.domain.as_deref() == domain);
        options.lora.iter_mut().for_each(|lora| lora.domain = None);
        options
    }

    /// The domain of an image, if there is a LoRA for it.
    pub fn own_domain<'d>(&self, domain: Option<&'d str>) -> Option<&'d str> {
        domain.filter(|domain| self.lora.iter().any(|lora| lora.domain.as_deref() == Some(*domain)))
    }
}

/// What a diffusion model predicts: diffusers' `prediction_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// Noise and image in opposite shares (Salimans and Ho 2022).
    VPrediction,
}

impl PredictionType {
    /// As configurations have it.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
        }
    }
}

impl Default for Options {
    /// With the empty path for the model, which must be given.
    fn default() -> Options {
        Options { model: PathBuf::new(), ..flags::parse(&["--model", "DIR"]) }
    }
}

fn scheduler_help() -> String {
    format!("Scheduler: {} [default: the model's own]", diffusion::names().join(", "))
}

/// "512" or "768x512" as height and width.
fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    match (height.parse(), width.parse()) {
        (Ok(height @ 1..=8192), Ok(width @ 1..=8192)) => Ok([height, width]),
        _ => Err("a size is a number like 512, or WIDTHxHEIGHT like 768x512".into()),
    }
}
