//! What a training has beside the originals, or in their place: the arms that a study compares.

use serde::{Deserialize, Serialize};

/// Which generated images join the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// None: the original domains.
    #[default]
    O,
    /// Those in the styles of the original training domains, which they join.
    Q,
    /// Those in new styles: each is one more training environment.
    D,
    /// Both.
    Qd,
    /// Those in new styles alone: originals only validate.
    DOnly,
    /// All generated ones alone: each style is an environment, and originals only validate.
    QdOnly,
    /// Both, with those that were selected out: what a selection has to be better than.
    QdAll,
    /// Both, from one plain template for all prompts: what a language model has to be better than.
    Plain,
    /// Both, painted from originals.
    Img2img,
    /// Real images from elsewhere, in known styles or new ones: what generated ones have to be better than.
    Retrieval,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 10] = [
        Variant::O,
        Variant::Q,
        Variant::D,
        Variant::Qd,
        Variant::DOnly,
        Variant::QdOnly,
        Variant::QdAll,
        Variant::Plain,
        Variant::Img2img,
        Variant::Retrieval,
    ];
    /// The paper's.
    pub const PAPER: [Variant; 4] = [Variant::O, Variant::Q, Variant::D, Variant::Qd];

    /// What the command line and run.toml call it.
    pub fn name(self) -> &'static str {
        ["o", "q", "d", "qd", "d-only", "qd-only", "qd-all", "plain", "img2img", "retrieval"][self as usize]
    }

    /// Whether originals are trained on.
    pub fn has_originals(self) -> bool {
        !matches!(self, Variant::DOnly | Variant::QdOnly)
    }

    /// Whether added images in the styles of the training domains are.
    pub fn has_styles(self) -> bool {
        !matches!(self, Variant::O | Variant::D | Variant::DOnly)
    }

    /// Whether added images of new domains are.
    pub fn has_new(self) -> bool {
        !matches!(self, Variant::O | Variant::Q)
    }
}
