//! What a batch is going to look like, while it is painted: colours that are sums of the latents' channels, without an autoencoder.

use crate::data::image::{Filter, Rgb};
use crate::data::write_atomic;
use anyhow::{Context, Result};
use std::path::Path;

/// The picture, in the folder of the images; hidden, so that no data set takes it for one of them.
pub const FILE: &str = ".preview.png";
/// Red, green and blue of each channel of Stable Diffusion's latents, as ComfyUI found them by least squares; about -1..1.
const COLOURS: [[f32; 3]; 4] = [
    [0.3512, 0.2297, 0.3227],
    [0.3250, 0.4974, 0.2350],
    [-0.2829, 0.1762, 0.2721],
    [-0.2120, -0.2616, -0.7177],
];

/// Writes the `n` images of `latents`, side by side and at half of their `size` (height, width).
///
/// # Errors
/// A folder that cannot be written.
pub fn write(out: &Path, latents: &[f32], n: usize, size: [usize; 2]) -> Result<()> {
    let bytes = picture(latents, n, size).png().with_context(|| format!("{FILE}: cannot encode"))?;
    write_atomic(out.join(FILE), &bytes)
}

/// Latents (N, h, w, 4) of any scale as one picture.
fn picture(latents: &[f32], n: usize, [height, width]: [usize; 2]) -> Rgb {
    let channels = COLOURS.len();
    let scale = ((height * width * n * channels) as f64 / latents.len() as f64).sqrt().round() as usize;
    let [h, w] = [height, width].map(|s| s / scale.max(1));
    let mut data = vec![0; n * h * w * 3];
    for (i, latent) in latents.chunks_exact(channels).enumerate() {
        let (image, y, x) = (i / (h * w), i / w % h, i % w);
        for colour in 0..3 {
            let sum: f32 = latent.iter().zip(&COLOURS).map(|(v, colours)| v * colours[colour]).sum();
            data[((y * n + image) * w + x) * 3 + colour] = ((sum * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0) as u8;
        }
    }
    let small = Rgb { width: n * w, height: h, data };
    small.resize(n * (width / 2).max(1), (height / 2).max(1), Filter::Bilinear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_becomes_colours_at_half_the_size_of_its_image() {
        // Two images of 16 x 32, the second one bright in what the first channel says.
        let mut latents = vec![0.0; 2 * 2 * 4 * 4];
        latents[32..].chunks_mut(4).for_each(|pixel| pixel[0] = 2.0);
        let picture = picture(&latents, 2, [16, 32]);
        assert_eq!((picture.width, picture.height), (32, 8));
        assert_eq!(picture.data[..3], [127, 127, 127]);
        assert_eq!(picture.data[picture.data.len() - 3..], [217, 186, 209]);
    }
}
