//! Batches of pictures, painted on one adapter or on several: while one is painted, the originals of the next are read and the pictures of
//! the last are written.

use super::generate::{Models, Planned, models_of};
use super::painted::encode;
use super::preview;
use crate::core::{Gpu, GpuOptions};
use crate::data::folder::Folder;
use crate::data::image::{Filter, Rgb};
use crate::data::write_atomic;
use crate::engines::options::Options;
use crate::engines::painter::{Painter, Request, Step};
use crate::progress::{Progress, bail_if_stopped, be_quiet};
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle, scope};

/// What pictures have in common that one painter paints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Their domain, if there is a LoRA for that.
    pub domain: Option<String>,
    /// How often the text encoder reads for a prompt.
    pub chunks: usize,
    /// How many they are in the whole run, so that a resumed one and a part of it use the same kernels.
    pub of: usize,
    /// They are painted from others.
    pub from_images: bool,
}

/// Pictures that are painted at once.
pub struct Batch<'a> {
    /// What its painter is made for.
    pub group: &'a Group,
    /// Of one guidance and strength.
    pub pictures: &'a [&'a Planned],
}

/// All that is to be painted, and what is asked of it.
pub struct Queue<'a> {
    pub batches: Vec<Batch<'a>>,
    pub folder: &'a Folder,
    pub options: &'a Options,
    pub out: &'a Path,
    pub size: [usize; 2],
    /// Steps between two previews.
    pub preview: Option<usize>,
    pub progress: Progress,
    next: AtomicUsize,
    /// Whether a worker ended with an error, which stops the others too.
    broken: AtomicBool,
}

/// A batch with its originals, if it has some.
type Taken<'a> = Option<(&'a Batch<'a>, Vec<Option<Rgb>>)>;
/// A picture that is to be written.
type Painted<'a> = (&'a Planned, Vec<u8>);

/// A painter for a group.
///
/// # Errors
/// As [`Painter::new`] and [`Painter::from_images`].
pub fn painter(gpu: &Gpu, models: &Models, group: &Group) -> Result<Painter> {
    let (model, options) = &models[&group.domain];
    let painter = Painter::new(gpu, model, options, group.of, group.chunks)?;
    if group.from_images { painter.from_images() } else { Ok(painter) }
}

impl<'a> Queue<'a> {
    pub fn new(
        batches: Vec<Batch<'a>>,
        folder: &'a Folder,
        (options, size): (&'a Options, [usize; 2]),
        out: &'a Path,
        (preview, progress): (Option<usize>, Progress),
    ) -> Queue<'a> {
        let (next, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
        Queue { batches, folder, options, out, size, preview, progress, next, broken }
    }

    /// Paints all, with the `painters` of this thread's adapter and on those `beside` it.
    ///
    /// # Errors
    /// Those of a painter or of an adapter, files that cannot be read or written, Ctrl-C.
    pub fn paint(&self, mut painters: BTreeMap<Group, Painter>, beside: &[GpuOptions]) -> Result<()> {
        scope(|scope| {
            let others: Vec<_> =
                beside.iter().map(|adapter| scope.spawn(|| self.guarded(|| self.beside(adapter)))).collect();
            let own = self
                .guarded(|| self.work(|group| painters.remove(group).context("a painter for each group")));
            others.into_iter().map(joined).fold(own, |all, one| all.and(one))
        })
    }

    /// A worker on an adapter of its own.
    fn beside(&self, adapter: &GpuOptions) -> Result<()> {
        // Their bars would overwrite each other.
        be_quiet();
        let gpu = Gpu::open(adapter)?;
        let domains = self.batches.iter().map(|batch| batch.group.domain.clone()).collect();
        let models = models_of(self.folder, self.options, &domains)?;
        self.work(|group| painter(&gpu, &models, group))
    }

    fn guarded(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = work();
        self.broken.fetch_or(done.is_err(), Relaxed);
        done
    }

    /// The next batch, unless there is none or another worker failed.
    fn take(&'a self) -> Result<Taken<'a>> {
        let next = self.batches.get(self.next.fetch_add(1, Relaxed));
        let Some(batch) = next.filter(|_| !self.broken.load(Relaxed)) else { return Ok(None) };
        let inits = batch.pictures.iter().map(|p| p.picture.init.as_ref().map(Rgb::open).transpose());
        Ok(Some((batch, inits.collect::<Result<_>>()?)))
    }

    /// Prompts of the batches behind this one that are of the same group.
    fn coming(&self, batch: &Batch) -> impl Iterator<Item = &str> {
        let behind = self.batches.iter().skip_while(|other| !ptr::eq(*other, batch)).skip(1);
        let own = behind.take_while(|other| other.group == batch.group);
        own.flat_map(|batch| batch.pictures).map(|planned| &*planned.picture.prompt)
    }

    /// Paints batches until none is left, by painters that `made` makes.
    fn work(&self, mut made: impl FnMut(&Group) -> Result<Painter>) -> Result<()> {
        scope(|scope| {
            // As many wait to be written as a batch has: a slow disk slows the painter, and memory stays.
            let (send, receive) = sync_channel(16);
            let writer = scope.spawn(move || self.write(&receive));
            let painted = self.paint_own(scope, &mut made, send);
            joined(writer).and(painted)
        })
    }

    fn paint_own<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        made: &mut dyn FnMut(&Group) -> Result<Painter>,
        send: SyncSender<Painted<'s>>,
    ) -> Result<()> {
        let mut painter: Option<(&Group, Painter)> = None;
        let mut next = self.take()?;
        while let Some((batch, inits)) = next {
            let following = scope.spawn(|| self.take());
            if painter.as_ref().is_none_or(|(group, _)| *group != batch.group) {
                // The one before gives its memory back first.
                drop(painter.take());
                painter = Some((batch.group, made(batch.group)?));
            }
            let (_, painter) = painter.as_mut().context("just made")?;
            let requests = batch.pictures.iter().zip(&inits).map(|(planned, init)| Request {
                prompt: &planned.picture.prompt,
                seed: planned.picture.seed.unwrap_or(0),
                init: init.as_ref(),
                strength: planned.strength,
                guidance: planned.guidance,
            });
            let after_step = |step: &Step| {
                self.progress.inc(batch.pictures.len() as u64);
                if self.preview.is_some_and(|every| step.number.is_multiple_of(every)) {
                    preview::write(self.out, &step.latents(), batch.pictures.len(), self.size)?;
                }
                bail_if_stopped()
            };
            let images = painter.paint(&requests.collect::<Vec<_>>(), self.coming(batch), after_step)?;
            for painted in batch.pictures.iter().copied().zip(images) {
                // A writer that is gone says itself why.
                if send.send(painted).is_err() {
                    return Ok(());
                }
            }
            next = joined(following)?;
        }
        Ok(())
    }

    fn write(&self, painted: &Receiver<Painted>) -> Result<()> {
        let [height, width] = self.size;
        painted.iter().try_for_each(|(planned, pixels)| {
            let file = self.out.join(&planned.picture.file_name);
            let painted = Rgb { width, height, data: pixels };
            let Rgb { width, height, data } = match self.options.saved_size {
                Some([height, width]) => painted.resize(width, height, Filter::Bicubic),
                None => painted,
            };
            let png = encode(&data, width, height, &planned.metadata);
            write_atomic(&file, &png.with_context(|| format!("{}: cannot encode", file.display()))?)
        })
    }
}

fn joined<T>(thread: ScopedJoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
