//! Images and their views as words for `Graph::augment`: a header for each image, then for each the pixels of its crop (one word per
//! pixel, R + 256 G + 65536 B) and the taps of Pillow's resizing along columns and along rows. A tap is the place of the first input
//! pixel, then weights of 22 bits.

use super::augment::{Colour, View};
use super::image::{Filter, Pixels, Taps};
use rayon::prelude::*;
use std::mem::{offset_of, size_of};

/// The header of an image, one word per field.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Header {
    /// Place of the crop's first pixel.
    pixels: u32,
    /// Pixels from one row of the crop to the next.
    stride: u32,
    /// Place of the taps of the output columns, and weights in each.
    columns: u32,
    column_weights: u32,
    /// Place of the taps of the output rows, and weights in each.
    rows: u32,
    row_weights: u32,
    /// The colour operations in order, each its kind << 16 | its factor; 0 is none.
    colours: [u32; 4],
    /// 1: no colours in the end.
    grey: u32,
    unused: u32,
}

/// Words of a header.
pub const HEADER: usize = size_of::<Header>() / 4;

const BRIGHTNESS: u32 = 1;
const CONTRAST: u32 = 2;
const SATURATION: u32 = 3;
const HUE: u32 = 4;

/// What `shaders/augment.wgsl` calls the words of a header and the kinds of colour operations.
pub const NAMES: [(&str, usize); 12] = [
    ("HEADER", HEADER),
    ("PIXELS", offset_of!(Header, pixels) / 4),
    ("STRIDE", offset_of!(Header, stride) / 4),
    ("COLUMNS", offset_of!(Header, columns) / 4),
    ("COLUMN_WEIGHTS", offset_of!(Header, column_weights) / 4),
    ("ROWS", offset_of!(Header, rows) / 4),
    ("ROW_WEIGHTS", offset_of!(Header, row_weights) / 4),
    ("COLOURS", offset_of!(Header, colours) / 4),
    ("GREY", offset_of!(Header, grey) / 4),
    ("CONTRAST", CONTRAST as usize),
    ("SATURATION", SATURATION as usize),
    ("HUE", HUE as usize),
];

/// A crop that is more than this many times as wide or as high as the network's images is resized here and packed at their size.
/// Photographs of many megapixels would otherwise decide how much device memory a minibatch takes, and how long its upload.
const FOLD: usize = 2;
/// Words of a tap when a crop is [`FOLD`] times as large.
const TAP: usize = 2 * FOLD + 2;

/// Words that [`pack`] writes at most for an image of `width` x `height` pixels, its header aside.
pub fn packed_words([width, height]: [usize; 2], size: usize) -> usize {
    let [width, height] = [width, height].map(|n| n.min(FOLD * size).max(size));
    width * height + 2 * size * TAP
}

/// Packs images and how each is shown, to be seen at `size` x `size` pixels.
pub fn pack(size: usize, shown: &[(Pixels, View)]) -> Vec<u32> {
    let one = |(image, view): &(Pixels, View)| pack_one(size, *image, view);
    let packed: Vec<(Header, Vec<u32>)> = shown.par_iter().map(one).collect();
    let mut all = Vec::with_capacity(packed.iter().map(|p| HEADER + p.1.len()).sum());
    let mut start = (packed.len() * HEADER) as u32;
    for (header, words) in &packed {
        let mut header = *header;
        for place in [&mut header.pixels, &mut header.columns, &mut header.rows] {
            *place += start;
        }
        all.extend(bytemuck::cast::<Header, [u32; HEADER]>(header));
        start += words.len() as u32;
    }
    packed.iter().for_each(|(_, words)| all.extend_from_slice(words));
    all
}

/// The words of one image, and its header with places that count from the first of them.
fn pack_one(size: usize, image: Pixels, view: &View) -> (Header, Vec<u32>) {
    let [left, top, width, height] = view.crop;
    let small;
    let (image, [left, top, width, height]) = match width.max(height) > FOLD * size {
        true => {
            small = image.crop(left, top, width, height).resize(size, size, Filter::Bilinear);
            (small.pixels(), [0, 0, size, size])
        }
        false => (image, view.crop),
    };
    let mut words = Vec::with_capacity(packed_words([width, height], size));
    for row in image.data.chunks_exact(image.width * 3).skip(top).take(height) {
        let pixels = row[left * 3..(left + width) * 3].chunks_exact(3);
        words.extend(pixels.map(|p| u32::from_le_bytes([p[0], p[1], p[2], 0])));
    }
    let columns = words.len();
    let column_weights = Taps::new(width, size, Filter::Bilinear).pack(view.flip, &mut words);
    let rows = words.len();
    let row_weights = Taps::new(height, size, Filter::Bilinear).pack(false, &mut words);
    let mut colours = [0; 4];
    for (word, colour) in colours.iter_mut().zip(&view.colours) {
        *word = match *colour {
            Colour::Brightness(n) => BRIGHTNESS << 16 | n,
            Colour::Contrast(n) => CONTRAST << 16 | n,
            Colour::Saturation(n) => SATURATION << 16 | n,
            Colour::Hue(shift) => HUE << 16 | u32::from(shift),
        };
    }
    let header = Header {
        pixels: 0,
        stride: width as u32,
        columns: columns as u32,
        column_weights: column_weights as u32,
        rows: rows as u32,
        row_weights: row_weights as u32,
        colours,
        grey: u32::from(view.grey),
        unused: 0,
    };
    (header, words)
}
