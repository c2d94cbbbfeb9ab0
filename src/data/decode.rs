//! Reading an image file as Pillow reads it, so that what a network sees is what it saw in the papers' code; and saying what is wrong
//! with one that cannot be read. A format is told by a file's content, as its name may lie. Two things differ from Pillow on purpose:
//! transparent pixels lie over white, and 16-bit grey keeps its brightness where Pillow makes it white.

use super::image::{Rgb, over_white};
use super::{NOWHERE, one_line, text, tiff};
use anyhow::{Context, Result, anyhow, bail};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};
use std::path::Path;

impl Rgb {
    /// Reads an image file of any supported format, whatever its name says.
    ///
    /// # Errors
    /// A file that cannot be read or is not an image.
    pub fn open(path: impl AsRef<Path>) -> Result<Rgb> {
        let path = path.as_ref();
        let is_dead = path.is_symlink() && !path.exists();
        let why = if is_dead { NOWHERE } else { "cannot read" };
        let bytes = std::fs::read(path).with_context(|| format!("{}: {why}", path.display()))?;
        decode(&bytes)
            .with_context(|| format!("{}: not a readable image; replace or delete it", path.display()))
    }
}

/// The end of every PNG: an empty chunk.
const IEND: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];

/// The format of a file's content.
pub fn format(bytes: &[u8]) -> Option<ImageFormat> {
    // TGA has no mark: its header holds kinds of which there are few.
    let is_tga = |b: &[u8]| {
        b.len() > 18
            && b[1] <= 1
            && [1, 2, 3, 9, 10, 11].contains(&b[2])
            && [8, 15, 16, 24, 32].contains(&b[16])
    };
    image::guess_format(bytes).ok().or(is_tga(bytes).then_some(ImageFormat::Tga))
}

/// Whether the content is a picture's, of a kind that is read here or not.
pub fn is_picture(bytes: &[u8]) -> bool {
    let brand = bytes.get(4..12).unwrap_or_default();
    let heif =
        [b"ftypavif", b"ftypavis", b"ftypheic", b"ftypheix", b"ftypmif1"].iter().any(|b| brand == &b[..]);
    heif || bytes.starts_with(b"\xff\x0a") || image::guess_format(bytes).is_ok()
}

/// How a camera was held, where the file says that the picture is not upright as stored. It stays as stored, as DomainBed sees it.
pub fn is_turned(bytes: &[u8]) -> bool {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let decoder = reader.ok().and_then(|reader| reader.into_decoder().ok());
    let turned = decoder.and_then(|mut decoder| decoder.orientation().ok());
    turned.is_some_and(|o| o != image::metadata::Orientation::NoTransforms)
}

/// An image from the bytes of a file: of an animation the first frame.
///
/// # Errors
/// Bytes that are no image, or a damaged one, or one that was cut short.
pub fn decode(bytes: &[u8]) -> Result<Rgb> {
    if let Some(what) = text::stand_in(bytes) {
        bail!("{what}");
    }
    if bytes.starts_with(&[0, 5, 0x16, 7]) {
        bail!("AppleDouble, what macOS keeps beside a file: delete it");
    }
    let Some(format) = format(bytes) else {
        match is_picture(bytes) {
            true => bail!("a format that is not supported (AVIF, HEIC, JPEG XL): convert it to PNG"),
            false => bail!("unknown format"),
        }
    };
    let image = match format {
        ImageFormat::Tiff => match tiff::decode(bytes) {
            Some(image) => return Ok(image),
            None => read(bytes, format)?,
        },
        ImageFormat::Png => match with_end(bytes) {
            Cow::Owned(ended) => read(&ended, format).map_err(|e| anyhow!("the file is cut short ({e})"))?,
            Cow::Borrowed(bytes) => read(bytes, format)?,
        },
        ImageFormat::Jpeg => match read(bytes, format) {
            Ok(_) if is_cut_jpeg(bytes) => {
                bail!("the file is cut short: the decoder filled the rest with grey")
            }
            Err(e) if !Walk::new(bytes).has_end => bail!("the file is cut short ({e})"),
            image => image?,
        },
        // It says how long it is.
        ImageFormat::WebP if riff_length(bytes) > bytes.len() => bail!("the file is cut short"),
        _ => read(bytes, format)?,
    };
    let (width, height) = (image.width() as usize, image.height() as usize);
    let data = match image {
        // Pillow keeps the high byte.
        DynamicImage::ImageRgb16(image) if high_bytes(format) => {
            image.iter().map(|v| (v >> 8) as u8).collect()
        }
        DynamicImage::ImageLuma16(image) if high_bytes(format) => {
            image.iter().flat_map(|v| [(v >> 8) as u8; 3]).collect()
        }
        image if !image.color().has_alpha() => image.into_rgb8().into_raw(),
        image => {
            let over = |p: &[u8; 4]| [0, 1, 2].map(|c| over_white(p[c], p[3]));
            image.into_rgba8().into_raw().as_chunks().0.iter().flat_map(over).collect()
        }
    };
    Ok(Rgb { width, height, data })
}

fn high_bytes(format: ImageFormat) -> bool {
    matches!(format, ImageFormat::Png | ImageFormat::Tiff)
}

fn read(bytes: &[u8], format: ImageFormat) -> Result<DynamicImage> {
    let name = format.extensions_str().first().map_or("?", |e| *e).to_uppercase();
    match image::load_from_memory_with_format(bytes, format) {
        Ok(image) => Ok(image),
        Err(ImageError::Unsupported(_)) => {
            bail!("a {name} of a kind that is not supported: convert it to PNG")
        }
        Err(ImageError::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => bail!("the file is cut short"),
        Err(e) => {
            let what = one_line(&e.to_string());
            let is_cut = [
                "end of file",
                "unexpected end",
                "EOF",
                "fill whole buffer",
                "not enough data",
                "too short",
                "truncated",
            ]
            .iter()
            .any(|words| what.to_lowercase().contains(&words.to_lowercase()));
            match is_cut {
                true => bail!("the file is cut short ({what})"),
                false => bail!("{what}"),
            }
        }
    }
}

fn riff_length(bytes: &[u8]) -> usize {
    bytes.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |&b| u32::from_le_bytes(b) as usize + 8)
}

/// A PNG with its end, if that alone is missing.
fn with_end(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.windows(4).rev().take(64).any(|w| w == b"IEND") || bytes.ends_with(&IEND) {
        return bytes.into();
    }
    let there = (0..IEND.len()).rev().find(|&n| bytes.ends_with(&IEND[..n])).unwrap_or(0);
    [bytes, &IEND[there..]].concat().into()
}

/// Whether a JPEG that the decoder took lacks more than its end marker. Decoders fill what is missing with grey and say nothing.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let walk = Walk::new(bytes);
    if walk.has_end {
        return false;
    }
    if !walk.is_complete() {
        return true;
    }
    // A decoder that still wants data takes what follows for it: two endings then give two images.
    let end = bytes.iter().rposition(|&b| b != 0xff).map_or(0, |i| i + 1);
    let padded = |byte: u8| {
        let noise = (0..4096u32).map(|i| byte ^ (i.wrapping_mul(2_654_435_761) >> 25) as u8 & 0x5e);
        let bytes: Vec<u8> = bytes[..end].iter().copied().chain(noise).chain([0xff, 0xd9]).collect();
        image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).ok().map(DynamicImage::into_bytes)
    };
    let (a, b) = (padded(0x00), padded(0xfe));
    a.is_none() || a != b
}

/// What the markers of a JPEG say.
struct Walk {
    has_end: bool,
    is_progressive: bool,
    components: usize,
    /// Of each component and each of its 64 coefficients, how many of the lowest bits are still to come; 255: all.
    left: [[u8; 64]; 4],
}

impl Walk {
    fn new(bytes: &[u8]) -> Walk {
        let mut walk = Walk { has_end: false, is_progressive: false, components: 0, left: [[255; 64]; 4] };
        let mut ids = vec![];
        let mut at = 2;
        while let Some(&[mark, kind]) = bytes.get(at..at + 2).and_then(|b| b.first_chunk::<2>()) {
            if mark != 0xff || kind == 0 || (0xd0..=0xd7).contains(&kind) || kind == 0xff {
                // Inside of a scan, or fill bytes.
                at += if kind == 0xff || mark != 0xff { 1 } else { 2 };
                continue;
            }
            if kind == 0xd9 {
                walk.has_end = true;
                return walk;
            }
            let Some(&length) = bytes.get(at + 2..at + 4).and_then(|b| b.first_chunk::<2>()) else {
                return walk;
            };
            let length = usize::from(u16::from_be_bytes(length));
            let segment = bytes.get(at + 4..at + 2 + length.max(2)).unwrap_or_default();
            match kind {
                0xc0..=0xc2 => {
                    walk.is_progressive = kind == 0xc2;
                    walk.components = segment.get(5).map_or(0, |&n| usize::from(n).min(4));
                    ids = segment.get(6..).unwrap_or_default().chunks(3).take(4).map(|c| c[0]).collect();
                }
                0xda => walk.scan(segment, &ids),
                _ => {}
            }
            at += 2 + length.max(2);
        }
        walk
    }

    /// Notes which coefficients a scan brings: components, first and last coefficient, and bits left.
    fn scan(&mut self, segment: &[u8], ids: &[u8]) {
        let count = segment.first().map_or(0, |&n| usize::from(n));
        let Some(&[first, last, bits]) = segment.get(1 + 2 * count..).and_then(|b| b.first_chunk::<3>())
        else {
            return;
        };
        for component in segment[1..1 + 2 * count].chunks(2) {
            let Some(place) = ids.iter().position(|id| *id == component[0]) else { continue };
            let range = usize::from(first.min(63))..=usize::from(last.min(63));
            if let Some(left) = self.left[place].get_mut(range) {
                left.fill(bits & 15);
            }
        }
    }

    /// Whether every scan has begun that it takes to see the whole.
    fn is_complete(&self) -> bool {
        let seen = |left: &[u8; 64]| match self.is_progressive {
            true => left.iter().all(|&bits| bits == 0),
            false => left[0] != 255,
        };
        self.components > 0 && self.left[..self.components].iter().all(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, RgbImage};

    // Written by Pillow.
    const PROGRESSIVE: &[u8] = include_bytes!("../../tests/data/images/progressive.jpg");
    const BASELINE: &[u8] = include_bytes!("../../tests/data/images/baseline.jpg");
    const PALETTE: &[u8] = include_bytes!("../../tests/data/images/palette.tif");
    const GREY_ALPHA: &[u8] = include_bytes!("../../tests/data/images/grey_alpha.tif");
    const CMYK: &[u8] = include_bytes!("../../tests/data/images/cmyk.tif");
    const FLOAT: &[u8] = include_bytes!("../../tests/data/images/float.tif");

    fn encoded(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn noise() -> RgbImage {
        RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([0, 1, 2].map(|c| ((x * 7919 + y * 104_729 + c * 31) % 251) as u8))
        })
    }

    fn error(bytes: &[u8]) -> String {
        decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_cut_short_is_refused_at_every_place_and_only_an_end_marker_may_lack() {
        for whole in [PROGRESSIVE, BASELINE] {
            let image = decode(whole).unwrap();
            for end in 0..whole.len() {
                match decode(&whole[..end]) {
                    Ok(cut) => assert!(cut == image, "{end} of {} bytes pass as another image", whole.len()),
                    Err(_) => assert!(end < whole.len() - 2, "an end marker may lack"),
                }
            }
            assert!(error(&whole[..whole.len() / 2]).contains("cut short"));
            assert_eq!(decode(&[whole, b"more bytes \xff\xd8"].concat()).unwrap(), image);
        }
        let formats =
            [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Gif];
        for format in formats.into_iter().chain([ImageFormat::Pnm, ImageFormat::Qoi, ImageFormat::Tga]) {
            let whole = encoded(noise().into(), format);
            let image = decode(&whole).unwrap();
            for part in [1, 3, 5, 8] {
                let said = error(&whole[..whole.len() * part / 10]);
                assert!(said.contains("cut short") || part == 1, "{format:?}, {part}0 %: {said}");
            }
            if format == ImageFormat::Png {
                for lacking in 1..=12 {
                    assert_eq!(
                        decode(&whole[..whole.len() - lacking]).unwrap(),
                        image,
                        "{lacking} bytes of IEND"
                    );
                }
                assert!(error(&whole[..whole.len() - 13]).contains("cut short"));
            }
        }
    }

    #[test]
    fn tiffs_are_read_as_pillow_reads_them_or_named() {
        let palette: Vec<u8> = (0..48).map(|i| (7 * i % 256) as u8).collect();
        assert_eq!(decode(PALETTE).unwrap().data, palette);
        let over = |i: u8| [over_white(16 * i, 255 - 10 * i); 3];
        assert_eq!(decode(GREY_ALPHA).unwrap().data, (0..16).flat_map(over).collect::<Vec<u8>>());
        let pillow = [
            [255, 255, 255],
            [235, 191, 230],
            [216, 134, 205],
            [197, 84, 182],
            [178, 40, 161],
            [160, 3, 140],
            [142, 127, 121],
            [125, 86, 102],
        ];
        let cmyk = decode(CMYK).unwrap().data;
        assert_eq!((&cmyk[..3], &cmyk[24..]), (&[49, 190, 146][..], pillow.as_flattened()));
        assert!(error(FLOAT).contains("a TIFF of a kind that is not supported"), "{}", error(FLOAT));
        for end in 0..PALETTE.len() {
            let _ = [PALETTE, GREY_ALPHA, CMYK].map(|whole| decode(&whole[..end.min(whole.len())]));
        }
    }

    #[test]
    fn sixteen_bits_keep_their_high_byte() {
        let rgb = image::ImageBuffer::from_pixel(4, 4, image::Rgb([0x01ffu16, 0x80ff, 0xfe80]));
        let png = encoded(DynamicImage::ImageRgb16(rgb), ImageFormat::Png);
        assert_eq!(decode(&png).unwrap().data[..3], [1, 128, 254]);
        let grey = image::ImageBuffer::from_pixel(4, 4, image::Luma([0x80ffu16]));
        assert_eq!(
            decode(&encoded(DynamicImage::ImageLuma16(grey), ImageFormat::Png)).unwrap().data[..3],
            [128; 3]
        );
    }

    #[test]
    fn what_lies_in_place_of_an_image_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 492265168\n";
        for (bytes, says) in [
            (&pointer[..], "a Git LFS pointer, not the file: run `git lfs pull`"),
            (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
            (b"", "an empty file"),
            (&[0, 5, 0x16, 7, 0, 2, 0, 0][..], "AppleDouble"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
            (b"plain text", "unknown format"),
        ] {
            assert!(error(bytes).contains(says), "{says}: {}", error(bytes));
        }
    }
}
