//! An autoencoder on a device: from pictures to latents and back, in tiles where a picture does not fit as a whole.

use super::Part;
use super::model::{Model, Work};
use super::tiles::{SIDES, Tiles};
use crate::core::{Gpu, OutOfMemory, Weights};
use crate::data::checkpoint::Checkpoint;
use crate::data::image::{Filter, Rgb};
use crate::models::autoencoder::Autoencoder;
use crate::models::vae::{Latents, modern_names};
use anyhow::{Context, Result, anyhow};
use std::rc::Rc;

/// The autoencoder of a model, for pictures of one size.
pub(super) struct Pixels {
    model: Model,
    work: Work,
    pub decoder: Half,
    /// For pictures that are painted from others.
    pub encoder: Option<Half>,
}

/// One of its halves.
pub(super) struct Half {
    pub part: Part,
    /// How it is done in pieces, where it does not fit as a whole.
    pub tiles: Option<Tiles>,
}

impl Pixels {
    /// The second half.
    ///
    /// # Errors
    /// Weights that are missing or of other shapes; an adapter that is too small even for tiles.
    pub fn new(gpu: &Gpu, model: &Model, work: Work) -> Result<Pixels> {
        let decoder = Half::open(gpu, model, work, Model::record_vae)?;
        Ok(Pixels { model: model.clone(), work, decoder, encoder: None })
    }

    /// Adds the first half, which takes one picture at a time.
    ///
    /// # Errors
    /// As [`Pixels::new`].
    pub fn with_encoder(&mut self) -> Result<()> {
        let work = Work { batch: 1, vae_batch: 1, ..self.work };
        self.encoder = Some(Half::open(&self.decoder.part.gpu, &self.model, work, Model::record_encoder)?);
        Ok(())
    }

    /// Floating point operations of decoding one picture.
    pub fn flops_of_an_image(&self) -> f64 {
        let Half { part, tiles } = &self.decoder;
        match tiles {
            Some(tiles) => part.needs().flops * tiles.count() as f64,
            None => part.needs().flops / self.work.vae_batch as f64,
        }
    }

    /// The latents of a picture, drawn from their distribution by `noise`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn encode(&mut self, picture: &Rgb, noise: &[f32]) -> Result<Vec<f32>> {
        let Latents { scaling_factor, shift_factor, channels, scale, .. } = self.model.vae.latents();
        let [height, width] = self.work.size;
        let picture = picture.resize(width, height, Filter::Lanczos);
        let pixels: Vec<f32> = picture.data.iter().map(|&byte| f32::from(byte) / 255.0 * 2.0 - 1.0).collect();
        let Half { part, tiles } =
            self.encoder.as_mut().context("a painter that was not made for pictures")?;
        let names = match self.model.vae {
            Autoencoder::Kl(_) => &["mean", "logvar"][..],
            Autoencoder::Tiny(_) => &["mean"],
        };
        let plan = part.plan()?;
        let mut run = |pixels: &[f32]| -> Result<Vec<Vec<f32>>> {
            plan.write("image", pixels)?;
            plan.run()?;
            names.iter().map(|name| plan.read(name)).collect()
        };
        let moments = match tiles {
            None => run(&pixels)?,
            Some(tiles) => {
                let mut cut = vec![vec![]; names.len()];
                for tile in tiles.cut(&pixels, 3, scale) {
                    cut.iter_mut().zip(run(&tile)?).for_each(|(all, one)| all.push(one));
                }
                cut.into_iter().map(|all| tiles.join(all, channels, 1)).collect()
            }
        };
        let mut x = moments[0].clone();
        if let Some(logvar) = moments.get(1) {
            let deviation = |logvar: f32| (0.5 * logvar.clamp(-30.0, 20.0)).exp();
            x.iter_mut().zip(logvar).zip(noise).for_each(|((x, v), n)| *x += deviation(*v) * n);
        }
        x.iter_mut().for_each(|v| *v = (*v - shift_factor) * scaling_factor);
        Ok(x)
    }

    /// The pictures of latents, (N, H, W, 3), about -1..1.
    ///
    /// # Errors
    /// A device that fails.
    pub fn decode(&mut self, latents: &[f32]) -> Result<Vec<f32>> {
        let Latents { scaling_factor, shift_factor, channels, scale, .. } = self.model.vae.latents();
        let [height, width] = self.work.size;
        let each = height * width / (scale * scale) * channels;
        let Half { part, tiles } = &mut self.decoder;
        let plan = part.plan()?;
        let at_once = if tiles.is_some() { 1 } else { self.work.vae_batch };
        let mut run = |mut z: Vec<f32>, length: usize| {
            // Unused places of the batch hold zeros.
            z.resize(length, 0.0);
            plan.write("latents", &z)?;
            plan.run()?;
            plan.read("image")
        };
        let mut pixels = vec![];
        for some in latents.chunks(each * at_once) {
            let z: Vec<f32> = some.iter().map(|v| v / scaling_factor + shift_factor).collect();
            match tiles {
                None => {
                    let images = run(z, each * at_once)?;
                    pixels.extend(&images[..some.len() / each * 3 * height * width]);
                }
                Some(tiles) => {
                    let decoded = tiles.cut(&z, channels, 1).into_iter().map(|tile| {
                        let length = tile.len();
                        run(tile, length)
                    });
                    pixels.extend(tiles.join(decoded.collect::<Result<_>>()?, 3, scale));
                }
            }
        }
        Ok(pixels)
    }
}

impl Half {
    /// As a whole or, where that does not fit, for the largest tiles that do.
    fn open(gpu: &Gpu, model: &Model, work: Work, record: fn(&Model, &Weights, Work)) -> Result<Half> {
        // Under today's names.
        let weights: Rc<Checkpoint> = Rc::new(modern_names((*model.parts.vae.weights()?).clone()));
        let open = |work: Work| {
            let model = model.clone();
            Part::open(gpu, gpu.caps().weights(), &weights, move |w| record(&model, w, work))
        };
        let whole = match open(work) {
            Err(e) if e.is::<OutOfMemory>() => e,
            part => return Ok(Half { part: part?, tiles: None }),
        };
        let scale = model.vae.latents().scale;
        let size = work.size.map(|s| s / scale);
        for side in SIDES.into_iter().filter(|&side| side < size[0] || side < size[1]) {
            let tiles = Tiles::new(size, side);
            if let Ok(part) = open(Work { size: tiles.size.map(|s| s * scale), vae_batch: 1, ..work }) {
                return Ok(Half { part, tiles: Some(tiles) });
            }
        }
        Err(anyhow!(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::GpuOptions;
    use crate::data::folder::Folder;
    use crate::engines::options::Options;
    use std::path::Path;

    #[test]
    fn a_picture_that_does_not_fit_as_a_whole_is_encoded_in_tiles() {
        let folder = Folder::from(Path::new("weights/demo/stable-diffusion"));
        let model = Model::open(&folder, &Options::default()).unwrap();
        let size @ [height, width] = [256, 192];
        let data = (0..height * width * 3).map(|i| (i / 3 % width) as u8 ^ (i / 3 / width) as u8).collect();
        let picture = Rgb { width, height, data };
        let encode = |memory: Option<u64>| {
            let gpu = Gpu::open(&GpuOptions { memory, ..GpuOptions::from_env() }).unwrap();
            let work = Work { size, batch: 1, vae_batch: 1, guided: false, chunks: 1 };
            let mut pixels = Pixels::new(&gpu, &model, work).unwrap();
            pixels.with_encoder().unwrap();
            let latents = pixels.encode(&picture, &vec![0.0; height * width / 16]).unwrap();
            (pixels.encoder.unwrap().tiles.is_some(), latents)
        };
        let ((whole_in_tiles, whole), (in_tiles, tiled)) = (encode(None), encode(Some(5)));
        assert!(!whole_in_tiles && in_tiles);
        assert_eq!(whole.len(), tiled.len());
        let square =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let apart =
            square(&mut whole.iter().zip(&tiled).map(|(a, b)| a - b)) / square(&mut whole.iter().copied());
        // Group norms see a tile only.
        assert!(apart > 0.0 && apart < 0.02, "{apart} of the whole apart");
    }
}
