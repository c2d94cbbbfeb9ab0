//! Pictures as a network is shown them.

use crate::core::{DType, Graph, Kernel, Tensor};
use crate::data::packed::{HEADER, NAMES};

impl Graph {
    /// `n` images of `size` x `size` pixels, (n, size, size, 4): what [`crate::data::augment::View::show`] makes of the images and
    /// views that [`crate::data::packed::pack`] has packed into `pictures` U32, bit for bit, and then of each channel
    /// (v / 255 - mean) / std. The fourth channel is 0, as convolutions read four at a time.
    #[track_caller]
    pub fn augment(&self, pictures: Tensor, n: usize, size: usize, mean: [f32; 3], std: [f32; 3]) -> Tensor {
        assert!(
            pictures.dtype() == DType::U32
                && pictures.len() >= n * HEADER
                && n * size < 1 << 22
                && size <= 4096,
            "augment of {pictures:?} to {n} images of {size} pixels"
        );
        let normal = |v: usize, c: usize| if c < 3 { (v as f32 / 255.0 - mean[c]) / std[c] } else { 0.0 };
        let table: Vec<f32> = (0..256 * 4).map(|i| normal(i / 4, i % 4)).collect();
        let pixels = n * size * size;
        let kernel =
            |entry| NAMES.iter().fold(Kernel::new("augment", entry), |k, &(name, word)| k.int(name, word));
        let call = |entry| self.call(kernel(entry)).ints([pixels, size]);
        let resized = call("resize").input(pictures).threads(pixels, 64);
        let [resized] = resized.outputs([(&[n, size, size], DType::U32)]);
        let [means] = call("mean").input(resized).groups(n).outputs([(&[n], DType::U32)]);
        let finish = call("finish").input(pictures).input(resized).input(means);
        let table = self.constant(&[256, 4], &table);
        finish.input(table).threads(pixels, 64).output(&[n, size, size, 4])
    }
}
