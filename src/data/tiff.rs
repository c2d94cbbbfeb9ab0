//! Kinds of TIFF that the decoder does not read as Pillow does: palettes, grey with alpha, CMYK. Its strips, tiles and compressions are
//! those of other kinds, so a copy of the file whose tags say so is decoded instead, and the samples are read as what they are.

use super::image::Rgb;
use image::{ImageFormat, load_from_memory_with_format};

const WIDTH: u16 = 256;
const BITS: u16 = 258;
const PHOTOMETRIC: u16 = 262;
const SAMPLES: u16 = 277;
const PLANAR: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOURS: u16 = 320;

/// The image in a TIFF of these kinds, of 8 bits a sample (fewer for palettes); none where it is another, or broken.
pub(super) fn decode(bytes: &[u8]) -> Option<Rgb> {
    let mut file = Tags::read(bytes)?;
    let (photometric, samples) = (file.value(PHOTOMETRIC)?, file.value(SAMPLES).unwrap_or(1));
    let wide = file.value(BITS)? == 8 && file.value(PLANAR).unwrap_or(1) == 1;
    let [white_is_zero, black_is_zero, rgb, palette, cmyk] = [0, 1, 2, 3, 5];
    match (photometric, samples) {
        (p, 1) if p == palette => {
            let colours = file.shorts(COLOURS)?;
            file.set(PHOTOMETRIC, black_is_zero)?;
            let bits = file.value(BITS)?;
            let (width, height, grey) = file.grey()?;
            // Shorter samples were spread over all of 0 ..= 255.
            let most = (1u32 << bits.min(8)) - 1;
            let count = colours.len() / 3;
            let colour = |&v: &u8| {
                let i = (u32::from(v) * most + 127) / 255;
                [0, 1, 2].map(|c| (colours.get(c * count + i as usize).copied().unwrap_or(0) >> 8) as u8)
            };
            Some(Rgb { width, height, data: grey.iter().flat_map(colour).collect() })
        }
        (p, 2)
            if wide
                && (p == black_is_zero || p == white_is_zero)
                && file.value(PREDICTOR).unwrap_or(1) == 1 =>
        {
            let width = file.value(WIDTH)?;
            file.set(WIDTH, width.checked_mul(2)?)?;
            file.set(SAMPLES, 1)?;
            file.set_count(BITS, 1, 8)?;
            file.set(PHOTOMETRIC, black_is_zero)?;
            let (wide, height, samples) = file.grey()?;
            let over = |p: &[u8; 2]| {
                let grey = if photometric == white_is_zero { 255 - p[0] } else { p[0] };
                [super::image::over_white(grey, p[1]); 3]
            };
            Some(Rgb { width: wide / 2, height, data: samples.as_chunks().0.iter().flat_map(over).collect() })
        }
        (p, 4) if wide && p == cmyk => {
            file.set(PHOTOMETRIC, rgb)?;
            let image = load_from_memory_with_format(&file.bytes, ImageFormat::Tiff).ok()?;
            let (width, height) = (image.width() as usize, image.height() as usize);
            let image::DynamicImage::ImageRgba8(samples) = image else { return None };
            // Pillow's: what black leaves, less each ink's share of it, rounded.
            let pixel = |p: &[u8; 4]| {
                let left = u32::from(255 - p[3]);
                [0, 1, 2].map(|c| {
                    let product = u32::from(p[c]) * left + 128;
                    (left - (((product >> 8) + product) >> 8)) as u8
                })
            };
            Some(Rgb { width, height, data: samples.as_raw().as_chunks().0.iter().flat_map(pixel).collect() })
        }
        _ => None,
    }
}

/// A TIFF and where the entries of its first directory lie.
struct Tags {
    bytes: Vec<u8>,
    little: bool,
    entries: Vec<(u16, usize)>,
}

impl Tags {
    fn read(bytes: &[u8]) -> Option<Tags> {
        let little = bytes.starts_with(b"II*\0");
        if !little && !bytes.starts_with(b"MM\0*") {
            return None;
        }
        let mut tags = Tags { bytes: bytes.to_vec(), little, entries: vec![] };
        let directory = tags.u32(4)? as usize;
        for i in 0..usize::from(tags.u16(directory)?) {
            let at = directory.checked_add(2 + 12 * i)?;
            tags.entries.push((tags.u16(at)?, at));
        }
        Some(tags)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let two = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let four = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
    }

    fn entry(&self, tag: u16) -> Option<usize> {
        self.entries.iter().find(|(t, _)| *t == tag).map(|(_, at)| *at)
    }

    /// The numbers of a tag: shorts, or one long.
    fn shorts(&self, tag: u16) -> Option<Vec<u32>> {
        let at = self.entry(tag)?;
        let count = self.u32(at + 4)? as usize;
        match self.u16(at + 2)? {
            3 => {
                let start = if count > 2 { self.u32(at + 8)? as usize } else { at + 8 };
                (0..count.min(1 << 16)).map(|i| self.u16(start.checked_add(2 * i)?).map(u32::from)).collect()
            }
            4 if count == 1 => Some(vec![self.u32(at + 8)?]),
            _ => None,
        }
    }

    /// The first number of a tag.
    fn value(&self, tag: u16) -> Option<u32> {
        self.shorts(tag)?.first().copied()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        Some(())
    }

    /// Sets a tag of one number.
    fn set(&mut self, tag: u16, value: u32) -> Option<()> {
        let at = self.entry(tag)?;
        self.set_count(tag, 1, value)?;
        // Shorts and longs alike as a long, which readers take for any of these tags.
        let long = if self.little { 4u16.to_le_bytes() } else { 4u16.to_be_bytes() };
        self.put(at + 2, &long)?;
        let value = if self.little { value.to_le_bytes() } else { value.to_be_bytes() };
        self.put(at + 8, &value)
    }

    /// Makes a tag hold `count` shorts, the first of which is `value`.
    fn set_count(&mut self, tag: u16, count: u32, value: u32) -> Option<()> {
        let at = self.entry(tag)?;
        let count = if self.little { count.to_le_bytes() } else { count.to_be_bytes() };
        self.put(at + 4, &count)?;
        let value = value as u16;
        let value = if self.little { value.to_le_bytes() } else { value.to_be_bytes() };
        self.put(at + 8, &value)
    }

    /// The file decoded as grey.
    fn grey(&self) -> Option<(usize, usize, Vec<u8>)> {
        let image = load_from_memory_with_format(&self.bytes, ImageFormat::Tiff).ok()?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        match image {
            image::DynamicImage::ImageLuma8(samples) => Some((width, height, samples.into_raw())),
            _ => None,
        }
    }
}
