//! How DomainBed shows a training image to a network: crop, resize, flip, colour jitter, grey. Operations and their order are
//! torchvision's on Pillow images, each rounding to 8 bits as Pillow does; only the random draws are our own, keyed by
//! (seed, step, image), so that a resumed run sees the same pictures.
//!
//! A [`View`] is one draw of all this. [`View::show`] applies it on the CPU; `Graph::augment` applies it on the device, to the same
//! bits, to what [`super::packed::pack`] packs.

use super::image::{Filter, Pixels, Rgb};
use super::rng::Key;

/// How one image is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The part that is resized: left, top, width, height.
    pub crop: [usize; 4],
    /// Left and right change places.
    pub flip: bool,
    /// What happens to the colours, in order.
    pub colours: Vec<Colour>,
    /// No colours in the end.
    pub grey: bool,
}

/// One operation of torchvision's ColorJitter. Factors are in 4096ths, so that their products with 8-bit numbers are exact
/// however a device computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Away from black.
    Brightness(u32),
    /// Away from the mean grey.
    Contrast(u32),
    /// Away from each pixel's own grey.
    Saturation(u32),
    /// Around the circle of 256 hues.
    Hue(u8),
}

/// 1 as a factor.
pub const ONE: u32 = 4096;

impl View {
    /// All of an image, as it is.
    pub fn plain(image: Pixels) -> View {
        View { crop: [0, 0, image.width, image.height], flip: false, colours: vec![], grey: false }
    }

    /// DomainBed's random transform. `index` tells images of one step apart.
    pub fn random(image: Pixels, key: Key, index: usize) -> View {
        let mut draws = Draws { key, next: index as u32 * DRAWS };
        let crop = random_crop(image, &mut draws);
        let flip = draws.uniform(0.0, 1.0) < 0.5;
        // torchvision's ColorJitter(0.3, 0.3, 0.3, 0.3) in random order.
        let mut order = [0, 1, 2, 3];
        for i in (1..4).rev() {
            order.swap(i, draws.below(i + 1));
        }
        let factors = [0.7, 0.7, 0.7].map(|low| (draws.uniform(low, 1.3) * f64::from(ONE)).round() as u32);
        let shift = (draws.uniform(-0.3, 0.3) * 255.0) as i32 as u8;
        let colours = order.map(|op| match op {
            0 => Colour::Brightness(factors[0]),
            1 => Colour::Contrast(factors[1]),
            2 => Colour::Saturation(factors[2]),
            _ => Colour::Hue(shift),
        });
        View { crop, flip, colours: colours.to_vec(), grey: draws.uniform(0.0, 1.0) < 0.1 }
    }

    /// The view of an image, `size` x `size` pixels.
    pub fn show(&self, image: Pixels, size: usize) -> Rgb {
        let [left, top, width, height] = self.crop;
        let mut image = image.crop(left, top, width, height).resize(size, size, Filter::Bilinear);
        if self.flip {
            flip(&mut image);
        }
        for &colour in &self.colours {
            let factor = |n: u32| n as f32 / ONE as f32;
            match colour {
                Colour::Brightness(n) => brightness(&mut image, factor(n)),
                Colour::Contrast(n) => contrast(&mut image, factor(n)),
                Colour::Saturation(n) => saturation(&mut image, factor(n)),
                Colour::Hue(shift) => hue(&mut image, shift),
            }
        }
        if self.grey {
            image.data.chunks_exact_mut(3).for_each(|p| p.fill(grey(p)));
        }
        image
    }
}

/// More than one image ever takes.
const DRAWS: u32 = 64;

struct Draws {
    key: Key,
    next: u32,
}

impl Draws {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.next += 1;
        low + (high - low) * f64::from(self.key.uniform(self.next - 1))
    }

    fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        self.key.below(self.next - 1, n as u32) as usize
    }
}

/// torchvision's RandomResizedCrop with scale (0.7, 1) and aspect (3/4, 4/3): left, top, width, height.
fn random_crop(image: Pixels, draws: &mut Draws) -> [usize; 4] {
    let (w, h) = (image.width, image.height);
    let (narrow, wide) = (3.0 / 4.0, 4.0 / 3.0f64);
    for _ in 0..10 {
        let area = (w * h) as f64 * draws.uniform(0.7, 1.0);
        let aspect = draws.uniform(f64::ln(narrow), f64::ln(wide)).exp();
        let cw = (area * aspect).sqrt().round_ties_even() as usize;
        let ch = (area / aspect).sqrt().round_ties_even() as usize;
        if 0 < cw && cw <= w && 0 < ch && ch <= h {
            let top = draws.below(h - ch + 1);
            return [draws.below(w - cw + 1), top, cw, ch];
        }
    }
    // Images too long for such a crop: the middle, as near to the allowed aspects as it gets.
    let aspect = w as f64 / h as f64;
    let (cw, ch) = match aspect {
        a if a < narrow => (w, (w as f64 / narrow).round_ties_even() as usize),
        a if a > wide => ((h as f64 * wide).round_ties_even() as usize, h),
        _ => (w, h),
    };
    [(w - cw) / 2, (h - ch) / 2, cw, ch]
}

fn flip(image: &mut Rgb) {
    for row in image.data.chunks_exact_mut(image.width * 3) {
        row.reverse();
        row.chunks_exact_mut(3).for_each(<[u8]>::reverse);
    }
}

/// Pillow's `blend`: from `base` to `v` and beyond, clipped and truncated.
fn blend(base: u8, v: u8, factor: f32) -> u8 {
    (f32::from(base) + factor * (f32::from(v) - f32::from(base))).clamp(0.0, 255.0) as u8
}

fn brightness(image: &mut Rgb, factor: f32) {
    image.data.iter_mut().for_each(|v| *v = blend(0, *v, factor));
}

/// Away from the mean grey.
fn contrast(image: &mut Rgb, factor: f32) {
    let sum: u64 = image.data.chunks_exact(3).map(|p| u64::from(grey(p))).sum();
    let mean = (sum as f64 / (image.width * image.height) as f64 + 0.5) as u8;
    image.data.iter_mut().for_each(|v| *v = blend(mean, *v, factor));
}

/// Away from each pixel's own grey.
fn saturation(image: &mut Rgb, factor: f32) {
    for p in image.data.chunks_exact_mut(3) {
        let base = grey(p);
        p.iter_mut().for_each(|v| *v = blend(base, *v, factor));
    }
}

/// Turns the colour circle by `shift` of its 256 steps.
fn hue(image: &mut Rgb, shift: u8) {
    for p in image.data.chunks_exact_mut(3) {
        let [h, s, v] = rgb_to_hsv([p[0], p[1], p[2]]);
        p.copy_from_slice(&hsv_to_rgb([h.wrapping_add(shift), s, v]));
    }
}

/// Pillow's luma.
fn grey(p: &[u8]) -> u8 {
    ((19595 * u32::from(p[0]) + 38470 * u32::from(p[1]) + 7471 * u32::from(p[2]) + 0x8000) >> 16) as u8
}

/// Pillow's 8-bit HSV, with its mixture of single and double precision.
fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(max - v) / range);
    let h = match max {
        m if m == r => bc - gc,
        m if m == g => (2.0 + f64::from(rc) - f64::from(bc)) as f32,
        _ => (4.0 + f64::from(gc) - f64::from(rc)) as f32,
    };
    let h = (f64::from(h) / 6.0 + 1.0).rem_euclid(1.0) as f32;
    let s = range / f32::from(max);
    [(f64::from(h) * 255.0) as u8, (f64::from(s) * 255.0) as u8, max]
}

fn hsv_to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixth = f64::from(h) * 6.0 / 255.0;
    let i = sixth.floor();
    let (f, s, x) = (f64::from((sixth - i) as f32), f64::from((f64::from(s) / 255.0) as f32), f64::from(v));
    let part = |share: f64| (x * (1.0 - share)).round().clamp(0.0, 255.0) as u8;
    let (p, q, t) = (part(s), part(s * f), part(s * (1.0 - f)));
    match i as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::tests::{golden, picture};
    use super::*;

    #[test]
    fn colour_operations_equal_pillow() {
        for case in golden()["colour"].as_array().unwrap() {
            let factor = case["factor"].as_f64().unwrap();
            let mut image = picture();
            match case["op"].as_str().unwrap() {
                "brightness" => brightness(&mut image, factor as f32),
                "contrast" => contrast(&mut image, factor as f32),
                "saturation" => saturation(&mut image, factor as f32),
                _ => hue(&mut image, (factor * 255.0) as i32 as u8),
            }
            let expected: Vec<u8> = serde_json::from_value(case["data"].clone()).unwrap();
            assert_eq!(image.data, expected, "{} {factor}", case["op"]);
        }
    }

    /// Every colour there and back: sums over a grid of 17 x 17 x 17 colours, weighted so that a swap would show.
    #[test]
    fn hsv_equals_pillow() {
        let steps = || (0..17u32).map(|i| (i * 16).min(255) as u8);
        let (mut there, mut back, mut n) = (0u64, 0u64, 0u64);
        for (r, g, b) in steps().flat_map(|r| steps().flat_map(move |g| steps().map(move |b| (r, g, b)))) {
            let add = |[x, y, z]: [u8; 3]| u64::from(x) + 256 * u64::from(y) + 65536 * u64::from(z);
            n += 1;
            there += n * add(rgb_to_hsv([r, g, b]));
            back += n * add(hsv_to_rgb([r, g, b]));
        }
        assert_eq!([there, back], [&golden()["there"], &golden()["back"]].map(|v| v.as_u64().unwrap()));
    }

    #[test]
    fn same_key_same_picture() {
        let (image, key) = (picture(), Key::new(1, 2, "augment"));
        let draw = |index| View::random(image.pixels(), key, index).show(image.pixels(), 8);
        assert_eq!(draw(0), draw(0));
        assert!((1..20).all(|i| draw(i) != draw(0)) && draw(0).data.len() == 8 * 8 * 3);
        let long = Rgb { width: 117, height: 1, data: image.data.clone() };
        assert_eq!(View::random(long.pixels(), key, 0).show(long.pixels(), 4).data.len(), 48);
    }

    #[test]
    fn flipped_twice_is_the_picture() {
        let mut image = picture();
        flip(&mut image);
        assert_eq!(image.data[..3], picture().data[36..39]);
        flip(&mut image);
        assert_eq!(image, picture());
    }
}
