//! What a trained network says of images that it was not tested on.

use super::environments::environments;
use super::settings::Training;
use super::task::Task;
use crate::core::{Gpu, Store};
use crate::data::augment::View;
use crate::data::checkpoint::Checkpoint;
use crate::data::dataset::{Dataset, Item, load};
use crate::data::packed::{pack, packed_words};
use crate::data::rng::Key;
use crate::domainbed::samples::{Rows, Samples};
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Result, bail};

/// Images that are decoded at once.
const CHUNK: usize = 256;

/// The probabilities of the classes, for each of `items`, by the network that the done training of these settings left.
///
/// # Errors
/// A training that is not done; images that cannot be read; a device that fails; Ctrl-C.
pub fn classify(gpu: &Gpu, settings: &Training, items: &[Item]) -> Result<Vec<Vec<f32>>> {
    let dataset = Dataset::open(&settings.data)?;
    let task = Task::new(settings, &dataset, &environments(settings, &dataset)?)?;
    let mut store = Store::new(gpu);
    let checkpoint = Checkpoint::open(settings.out.join("model.safetensors"))?;
    for name in checkpoint.names() {
        let (shape, data) = checkpoint.tensor(name)?;
        store.write(name, &shape, &data)?;
    }
    let progress = Progress::new("classify", items.len() as u64, "images");
    let mut all = vec![];
    for chunk in items.chunks(CHUNK) {
        bail_if_stopped()?;
        let images = load(chunk, || {})?;
        let size = settings.settings.size;
        let words = images.iter().map(|image| packed_words([image.width, image.height], size)).max();
        let samples = Samples::Pictures { size, words: words.unwrap_or(0) };
        let mut predictor = task.predictor(&store, &samples, false)?;
        let rows = predictor.rows();
        for batch in images.chunks(rows) {
            // The last batch is filled up with its last image.
            let shown = (0..rows).map(|row| batch[row.min(batch.len() - 1)].pixels());
            let packed = pack(size, &shown.map(|image| (image, View::plain(image))).collect::<Vec<_>>());
            predictor.run(Rows::Pictures(&packed), Key::new(settings.seed, 0, "classify"))?;
            let logits = predictor.logits()?;
            if logits.iter().any(|v| !v.is_finite()) {
                bail!("{}: its outputs are not finite", settings.out.display());
            }
            all.extend(logits.chunks_exact(dataset.classes.len()).take(batch.len()).map(softmax));
            progress.inc(batch.len() as u64);
        }
    }
    progress.finish();
    Ok(all)
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let exponents: Vec<f32> = logits.iter().map(|v| (v - most).exp()).collect();
    let sum: f32 = exponents.iter().sum();
    exponents.iter().map(|e| e / sum).collect()
}
