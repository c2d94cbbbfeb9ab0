//! A picture in overlapping tiles: the autoencoder's maps are the largest of all, and where they do not fit, it works on a piece at a time.
//! Where tiles overlap, one fades into the next, from the upper to the lower and from the left to the right, as in diffusers' tiled
//! decoding; all tiles are of one size, so that one plan serves them, and the last ones overlap more.

/// Share of a tile that lies over the next one.
const OVERLAP: f32 = 0.25;
/// Sides of tiles that are tried, in pixels of the latent: diffusers' first.
pub const SIDES: [usize; 5] = [64, 48, 32, 24, 16];

/// How a latent is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiles {
    /// Height and width of a tile, in pixels of the latent.
    pub size: [usize; 2],
    whole: [usize; 2],
    /// Where tiles begin, in rows and in columns.
    starts: [Vec<usize>; 2],
}

impl Tiles {
    /// Tiles of at most `side` for a latent of `whole` (height, width).
    pub fn new(whole: [usize; 2], side: usize) -> Tiles {
        let size = whole.map(|length| length.min(side));
        let starts = |length: usize, tile: usize| {
            let step = ((tile as f32 * (1.0 - OVERLAP)) as usize).max(1);
            let last = length - tile;
            (0..last).step_by(step).chain([last]).collect()
        };
        Tiles { size, whole, starts: [0, 1].map(|d| starts(whole[d], size[d])) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.starts[0].len() * self.starts[1].len()
    }

    /// The tiles of a map (h * scale, w * scale, channels), row by row: of the latent where the scale is 1, of the picture where it is
    /// the autoencoder's.
    pub fn cut(&self, map: &[f32], channels: usize, scale: usize) -> Vec<Vec<f32>> {
        let [height, width] = self.size.map(|n| n * scale);
        let whole_width = self.whole[1] * scale;
        let tile = |top: usize, left: usize| {
            let from = |y: usize| ((top * scale + y) * whole_width + left * scale) * channels;
            let row = |y: usize| &map[from(y)..][..width * channels];
            (0..height).flat_map(row).copied().collect()
        };
        let columns = &self.starts[1];
        self.starts[0].iter().flat_map(|&top| columns.iter().map(move |&left| tile(top, left))).collect()
    }

    /// The map of tiles, in the order of [`Tiles::cut`].
    pub fn join(&self, mut tiles: Vec<Vec<f32>>, channels: usize, scale: usize) -> Vec<f32> {
        let [rows, columns] = self.starts.clone();
        let [height, width] = self.size.map(|n| n * scale);
        let [_, whole_width] = self.whole.map(|n| n * scale);
        let mut map = vec![0.0; self.whole.iter().product::<usize>() * scale * scale * channels];
        for (i, &top) in rows.iter().enumerate() {
            for (j, &left) in columns.iter().enumerate() {
                let at = i * columns.len() + j;
                let (before, rest) = tiles.split_at_mut(at);
                let tile = &mut rest[0];
                if i > 0 {
                    let over = height - (top - rows[i - 1]) * scale;
                    let above = &before[at - columns.len()];
                    fade(
                        tile,
                        above,
                        over,
                        |n, k| ((n * width + k / channels) * channels) + k % channels,
                        height,
                        width * channels,
                    );
                }
                if j > 0 {
                    let over = width - (left - columns[j - 1]) * scale;
                    let beside = &before[at - 1];
                    fade(
                        tile,
                        beside,
                        over,
                        |n, k| ((k / channels) * width + n) * channels + k % channels,
                        width,
                        height * channels,
                    );
                }
                // Up to where the next begins; the rest is the next one's.
                for y in 0..height {
                    let to = ((top * scale + y) * whole_width + left * scale) * channels;
                    map[to..to + width * channels]
                        .copy_from_slice(&tile[y * width * channels..][..width * channels]);
                }
            }
        }
        map
    }
}

/// Fades the first `over` lines of `tile` in from the last ones of `before`; `place` is where the k-th number of line n is.
fn fade(
    tile: &mut [f32],
    before: &[f32],
    over: usize,
    place: impl Fn(usize, usize) -> usize,
    lines: usize,
    numbers: usize,
) {
    for n in 0..over {
        let share = n as f32 / over as f32;
        for k in 0..numbers {
            let own = place(n, k);
            tile[own] = before[place(lines - over + n, k)] * (1.0 - share) + tile[own] * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_and_joined_is_what_it_was() {
        let number = |i: usize| (i.wrapping_mul(7919) % 1000) as f32 / 100.0;
        for (whole, side) in [([14, 8], 8), ([9, 21], 8), ([5, 5], 8), ([8, 30], 16)] {
            let latent: Vec<f32> = (0..whole[0] * whole[1] * 3).map(number).collect();
            let tiles = Tiles::new(whole, side);
            let joined = tiles.join(tiles.cut(&latent, 3, 1), 3, 1);
            let largest = joined.iter().zip(&latent).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            let picture: Vec<f32> = (0..whole[0] * whole[1] * 4 * 3).map(number).collect();
            let same = tiles.join(tiles.cut(&picture, 3, 2), 3, 2);
            assert!(same.iter().zip(&picture).all(|(a, b)| (a - b).abs() < 1e-4));
            assert!(joined.len() == latent.len() && largest < 1e-4, "{whole:?}: {largest}");
        }
        assert_eq!(Tiles::new([14, 8], 8).starts, [vec![0, 6], vec![0]]);
    }

    #[test]
    fn one_tile_fades_into_the_next() {
        // Two tiles of 4 over 7 columns, one of zeros, one of ones.
        let tiles = Tiles::new([1, 7], 4);
        assert_eq!(tiles.starts[1], [0, 3]);
        assert_eq!(tiles.join(vec![vec![0.0; 4], vec![1.0; 4]], 1, 1), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let tiles = Tiles::new([1, 6], 4);
        assert_eq!(tiles.starts[1], [0, 2]);
        assert_eq!(tiles.join(vec![vec![0.0; 4], vec![1.0; 4]], 1, 1), [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]);
        // Each pixel of a latent is two of the image.
        let tiles = Tiles::new([1, 3], 2);
        let joined = tiles.join(vec![vec![0.0; 8], vec![1.0; 8]], 1, 2);
        assert_eq!(joined[..6], [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]);
    }
}
