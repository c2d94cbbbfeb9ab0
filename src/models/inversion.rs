//! Textual inversion (Gal et al. 2022): vectors that stand in a prompt for a word that the text encoder did not know.

use crate::data::checkpoint::Checkpoint;
use anyhow::{Result, bail};
use std::path::Path;

/// A word and its vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Inversion {
    /// What it is called in prompts, in any case: its file without the ending, and the token in the file if that has one.
    pub names: Vec<String>,
    /// Each takes the place of a token.
    pub vectors: Vec<Vec<f32>>,
}

impl Inversion {
    /// Reads what kohya's programs, diffusers or AUTOMATIC1111's save, for a text encoder of this width.
    ///
    /// # Errors
    /// A file that is broken, of another kind or for another model.
    pub fn open(path: &Path, width: usize) -> Result<Inversion> {
        let file = Checkpoint::open(path)?;
        let place = path.display();
        if file.contains("clip_g") {
            bail!("{place}: an embedding for Stable Diffusion XL");
        }
        let all: Vec<&str> = file.names().collect();
        let wanted = |name: &&&str| **name == "emb_params" || name.starts_with("string_to_param.");
        let tensor = match (all.iter().find(wanted), &all[..]) {
            (Some(name), _) | (None, [name]) => *name,
            _ => bail!("{place}: no textual inversion: it holds {} tensors", all.len()),
        };
        let (shape, values) = file.tensor(tensor)?;
        let columns = *shape.last().unwrap_or(&0);
        if shape.len() > 2 || columns == 0 {
            bail!("{place}: {tensor} of shape {shape:?} is no textual inversion");
        }
        if columns != width {
            let of = match columns {
                768 => "Stable Diffusion 1",
                1024 => "Stable Diffusion 2",
                _ => "another model",
            };
            bail!("{place}: its vectors have {columns} numbers, for {of}; this text encoder takes {width}");
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let own = !tensor.contains("string_to_param") && !["emb_params", "tensor"].contains(&tensor);
        let names = own.then(|| tensor.to_string()).into_iter().chain([stem]).collect();
        Ok(Inversion { names, vectors: values.chunks_exact(width).map(<[f32]>::to_vec).collect() })
    }
}
