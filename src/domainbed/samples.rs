//! How samples reach a plan: as numbers, or as the bytes of images that the device crops, resizes and augments.

use crate::core::{DType, Graph, Plan, Tensor};
use crate::data::packed::HEADER;
use anyhow::Result;

/// Statistics of ImageNet's channels.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The kind of samples that a plan takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// Numbers of this shape, for toy data.
    Numbers(Vec<usize>),
    /// Images.
    Pictures {
        /// Pixels of a side on the device.
        size: usize,
        /// Words of the largest one, as [`crate::data::packed::packed_words`] counts them.
        words: usize,
    },
}

impl Samples {
    /// Records the input of `rows` samples: (rows, ..), images as (rows, size, size, 4).
    pub fn input(&self, g: &Graph, rows: usize) -> Tensor {
        match self {
            Samples::Numbers(shape) => {
                let shape: Vec<usize> = [rows].iter().chain(shape).copied().collect();
                g.input("x", &shape, DType::F32)
            }
            Samples::Pictures { size, words } => {
                let pictures = g.input("x", &[rows * (HEADER + words)], DType::U32);
                g.augment(pictures, rows, *size, MEAN, STD)
            }
        }
    }
}

/// The samples of one run of a plan.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Numbers.
    Numbers(&'a [f32]),
    /// Images as [`crate::data::packed::pack`] packs them.
    Pictures(&'a [u32]),
}

impl Rows<'_> {
    /// Fills the input.
    pub(super) fn write(self, plan: &mut Plan) -> Result<()> {
        match self {
            Rows::Numbers(x) => plan.write("x", x),
            Rows::Pictures(words) => plan.write_start("x", words),
        }
    }
}
