//! Decoded images: every file is decoded once, and its 8-bit pixels are kept in memory or, if they do not fit, in a mapped file, whose
//! pages the system drops and reads back as it needs to.

use super::dataset::Item;
use super::image::{Pixels, Rgb};
use anyhow::{Context, Error, Result, anyhow};
use memmap2::Mmap;
use rayon::prelude::*;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The images of several lists of files.
pub struct Images {
    lists: Vec<Vec<Option<Place>>>,
    /// What did not fit into memory.
    cache: Option<(PathBuf, Mmap)>,
    /// Files that hold no readable image: list, place in it, and what is wrong.
    pub unreadable: Vec<(usize, usize, Error)>,
}

enum Place {
    Memory(Rgb),
    Cache { start: usize, width: usize, height: usize },
}

/// The file that takes what memory does not, while it is written.
struct Cache<'a> {
    path: &'a Path,
    file: Mutex<Option<(File, usize)>>,
}

impl Images {
    /// Decodes all files on all cores; `each` is told of every one. The first `budget` bytes of pixels stay in memory, the rest goes
    /// into the file `cache`, which is gone when this is dropped.
    ///
    /// # Errors
    /// A cache file that cannot be written. Files that cannot be read are listed in [`Images::unreadable`].
    pub fn load(lists: &[&[Item]], budget: u64, cache: &Path, each: impl Fn() + Sync) -> Result<Images> {
        let (used, cache) = (AtomicU64::new(0), Cache { path: cache, file: Mutex::new(None) });
        let place = |image: Rgb| -> Result<Place> {
            let bytes = image.data.len() as u64;
            match used.fetch_add(bytes, Relaxed) + bytes <= budget {
                true => Ok(Place::Memory(image)),
                false => cache.add(&image),
            }
        };
        let decode = |item: &Item| {
            let image = Rgb::open(&item.path);
            each();
            image.map(place)
        };
        let (mut all, mut unreadable) = (vec![], vec![]);
        for (l, list) in lists.iter().enumerate() {
            let decoded: Vec<Result<Result<Place>>> = list.par_iter().map(decode).collect();
            let mut places = vec![];
            for (i, image) in decoded.into_iter().enumerate() {
                match image {
                    Ok(place) => places.push(Some(place?)),
                    Err(e) => {
                        unreadable.push((l, i, e));
                        places.push(None);
                    }
                }
            }
            all.push(places);
        }
        Ok(Images { lists: all, cache: cache.map()?, unreadable })
    }

    /// Image `i` of list `list`. Panics for one that is unreadable.
    #[track_caller]
    pub fn get(&self, list: usize, i: usize) -> Pixels<'_> {
        match (&self.lists[list][i], &self.cache) {
            (Some(Place::Memory(image)), _) => image.pixels(),
            (Some(Place::Cache { start, width, height }), Some((_, map))) => {
                let data = &map[*start..start + width * height * 3];
                Pixels { width: *width, height: *height, data }
            }
            _ => panic!("image {i} of list {list} is unreadable"),
        }
    }

    /// Width and height of every readable image.
    pub fn sizes(&self) -> impl Iterator<Item = [usize; 2]> {
        self.lists.iter().flatten().flatten().map(|place| match place {
            Place::Memory(image) => [image.width, image.height],
            Place::Cache { width, height, .. } => [*width, *height],
        })
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if let Some((path, map)) = self.cache.take() {
            drop(map);
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Cache<'_> {
    fn failed(&self) -> String {
        format!("{}: cannot keep decoded images here (is the disk full or read-only?)", self.path.display())
    }

    /// Appends the pixels of an image. They are written, not mapped, as a full disk is then an error and not a fault.
    fn add(&self, image: &Rgb) -> Result<Place> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut file, start) = match held.take() {
            Some(open) => open,
            None => (File::create(self.path).with_context(|| self.failed())?, 0),
        };
        let written = file.write_all(&image.data);
        *held = Some((file, start + image.data.len()));
        written.with_context(|| self.failed())?;
        Ok(Place::Cache { start, width: image.width, height: image.height })
    }

    fn map(self) -> Result<Option<(PathBuf, Mmap)>> {
        if self.file.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Ok(None);
        }
        let file = File::open(self.path).with_context(|| self.failed())?;
        // SAFETY: the file is ours, and its folder is locked by this run; nobody else writes to it.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| anyhow!("{}: {e}", self.failed()))?;
        Ok(Some((self.path.to_path_buf(), map)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_memory_does_not_take_a_file_does() {
        let dir = tempfile::tempdir().unwrap();
        let item = |i: u32| {
            let path = dir.path().join(format!("{i}.png"));
            image::RgbImage::from_fn(3 + i, 2, |x, y| image::Rgb([(40 * x + y + i) as u8; 3]))
                .save(&path)
                .unwrap();
            Item { path, class: 0 }
        };
        let (a, mut b) = ((0..5).map(item).collect::<Vec<_>>(), (5..9).map(item).collect::<Vec<_>>());
        b.push(Item { path: dir.path().join("gone.png"), class: 0 });
        let cache = dir.path().join("cache");
        for budget in [0, 100, 1 << 20] {
            let images = Images::load(&[&a, &b], budget, &cache, || ()).unwrap();
            assert_eq!(cache.exists(), budget < 1 << 20);
            for (l, list) in [&a[..], &b[..4]].into_iter().enumerate() {
                for (i, item) in list.iter().enumerate() {
                    assert_eq!(images.get(l, i), Rgb::open(&item.path).unwrap().pixels());
                }
            }
            assert_eq!(images.sizes().map(|s| s[0]).max(), Some(11));
            assert_eq!(images.unreadable.iter().map(|u| (u.0, u.1)).collect::<Vec<_>>(), [(1, 4)]);
            drop(images);
            assert!(!cache.exists());
        }
        let error = Images::load(&[&a], 0, &dir.path().join("no/cache"), || ()).err().unwrap();
        assert!(format!("{error:#}").contains("cache: cannot keep decoded images here"), "{error:#}");
    }
}
