//! Images on the CPU: pixels, and resizing that equals Pillow's to the bit, so that what a network sees is what it saw in the papers' code.

use anyhow::Result;

/// An 8-bit RGB image, rows from the top, three bytes per pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// The pixels of an image that something else holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels<'a> {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: &'a [u8],
}

impl Pixels<'_> {
    /// The rectangle of `width` x `height` pixels from (`left`, `top`) on.
    #[track_caller]
    pub fn crop(self, left: usize, top: usize, width: usize, height: usize) -> Rgb {
        assert!(left + width <= self.width && top + height <= self.height, "crop outside of the image");
        let rows = self.data.chunks_exact(self.width * 3).skip(top).take(height);
        Rgb { width, height, data: rows.flat_map(|r| &r[left * 3..(left + width) * 3]).copied().collect() }
    }
}

/// Interpolation of [`Rgb::resize`], widened by the scale when shrinking (Pillow's antialias).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A triangle over two pixels.
    Bilinear,
    /// Keys' cubic with a = -0.5 over four pixels; CLIP's preprocessing.
    Bicubic,
    /// A sinc over six pixels; diffusers' preprocessing.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Filter::Bicubic => 0.0,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

impl Rgb {
    /// As a PNG.
    ///
    /// # Errors
    /// A picture without a pixel, or larger than a PNG can be.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.data)?;
        Ok(bytes)
    }

    /// Its pixels.
    pub fn pixels(&self) -> Pixels<'_> {
        Pixels { width: self.width, height: self.height, data: &self.data }
    }

    /// The rectangle of `width` x `height` pixels from (`left`, `top`) on.
    #[track_caller]
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Rgb {
        self.pixels().crop(left, top, width, height)
    }

    /// The image at another size, aspect ignored. As Pillow: first along rows, then along columns, with weights of 22 bits
    /// and 8-bit pixels in between; bit for bit what `Image.resize` gives.
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Rgb {
        let (w, h) = (self.width, self.height);
        let mut data = self.data.clone();
        if w != width {
            let taps = Taps::new(w, width, filter);
            data = data.chunks_exact(w * 3).flat_map(|row| taps.line(row)).collect();
        }
        if h != height {
            let taps = Taps::new(h, height, filter);
            data = taps.rows(&data, width * 3);
        }
        Rgb { width, height, data }
    }
}

/// A transparent value over white.
pub(super) fn over_white(v: u8, alpha: u8) -> u8 {
    let [v, alpha] = [v, alpha].map(u32::from);
    ((v * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// Bits of the fixed-point weights.
const BITS: u32 = 22;

/// For each output position: the first input position and the weights from there on.
pub(super) struct Taps(Vec<(usize, Vec<i32>)>);

impl Taps {
    pub(super) fn new(from: usize, to: usize, filter: Filter) -> Taps {
        let scale = from as f64 / to as f64;
        let wide = scale.max(1.0);
        let support = filter.support() * wide;
        let tap = |i: usize| {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> =
                (first..end).map(|x| filter.at((x as f64 - centre + 0.5) / wide)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: &f64| {
                let w = w / sum * f64::from(1 << BITS);
                (w + 0.5f64.copysign(w)) as i32
            };
            (first, weights.iter().map(fixed).collect())
        };
        Taps((0..to).map(tap).collect())
    }

    /// Appends them, last first if `reversed`, each as the same number of words: the first input position, then the weights, padded
    /// with zeros. Returns how many weights each has.
    pub(super) fn pack(&self, reversed: bool, words: &mut Vec<u32>) -> usize {
        let count = self.0.iter().map(|t| t.1.len()).max().unwrap_or(0);
        for i in 0..self.0.len() {
            let (first, weights) = &self.0[if reversed { self.0.len() - 1 - i } else { i }];
            words.push(*first as u32);
            words.extend((0..count).map(|k| weights.get(k).map_or(0, |&w| w as u32)));
        }
        count
    }

    /// One row of pixels.
    fn line<'a>(&'a self, row: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
        self.0.iter().flat_map(move |(first, weights)| {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (w, pixel) in weights.iter().zip(row[first * 3..].chunks_exact(3)) {
                for c in 0..3 {
                    sums[c] += w * i32::from(pixel[c]);
                }
            }
            sums.map(clip)
        })
    }

    /// All columns; a row is `stride` bytes.
    fn rows(&self, data: &[u8], stride: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * stride);
        let mut sums = vec![0i32; stride];
        for (first, weights) in &self.0 {
            sums.fill(1 << (BITS - 1));
            for (w, row) in weights.iter().zip(data[first * stride..].chunks_exact(stride)) {
                for (sum, &v) in sums.iter_mut().zip(row) {
                    *sum += w * i32::from(v);
                }
            }
            out.extend(sums.iter().map(|&s| clip(s)));
        }
        out
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::decode::decode;

    /// What Pillow made of [`picture`].
    pub fn golden() -> serde_json::Value {
        serde_json::from_str(include_str!("../../tests/data/pillow.json")).unwrap()
    }

    /// 13 x 9 pixels of every kind of colour.
    pub fn picture() -> Rgb {
        let byte = |i: u32| ((i * 2654435761u64 as u32) >> 24) as u8;
        Rgb { width: 13, height: 9, data: (0..13 * 9 * 3).map(byte).collect() }
    }

    #[test]
    fn resize_equals_pillow() {
        for case in golden()["resize"].as_array().unwrap() {
            let n = |k: &str| case[k].as_u64().unwrap() as usize;
            let filter = if case["filter"] == "bicubic" { Filter::Bicubic } else { Filter::Bilinear };
            let [left, top, w, h] = ["left", "top", "w", "h"].map(n);
            let made = picture().crop(left, top, w, h).resize(n("width"), n("height"), filter);
            let expected: Vec<u8> = serde_json::from_value(case["data"].clone()).unwrap();
            assert_eq!(made.data, expected, "{w} x {h} to {} x {}, {filter:?}", n("width"), n("height"));
        }
    }

    #[test]
    fn transparent_pixels_lie_over_white() {
        let rgba = image::RgbaImage::from_raw(3, 1, vec![10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 200, 128]);
        let mut png = std::io::Cursor::new(vec![]);
        rgba.unwrap().write_to(&mut png, image::ImageFormat::Png).unwrap();
        let rgb = decode(png.get_ref()).unwrap();
        assert_eq!((rgb.width, rgb.height), (3, 1));
        assert_eq!(rgb.data, [10, 20, 30, 255, 255, 255, 127, 177, 227]);
    }

    #[test]
    fn what_is_no_image_is_said_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        std::fs::write(&path, "plain text").unwrap();
        let error = format!("{:#}", Rgb::open(&path).unwrap_err());
        assert!(
            error.contains("x.png: not a readable image; replace or delete it: unknown format")
                && !error.contains('\n'),
            "{error}"
        );
    }
}
