//! Labelled images of several domains, `ROOT/DOMAIN/CLASS/image`, listed and split exactly as DomainBed (Gulrajani and
//! Lopez-Paz, "In search of lost domain generalization", 2020) does it, so that a seed means the same split here and there.

use super::chosen::LeftOut;
use super::image::Rgb;
use super::rng::Mt19937;
use super::{NOWHERE, below};
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

/// Endings that count as images, in any case.
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it lies.
    pub path: PathBuf,
    /// Position of its class in the list of classes.
    pub class: usize,
}

impl Item {
    /// File name without its ending.
    pub fn stem(&self) -> &str {
        self.path.file_stem().and_then(|s| s.to_str()).unwrap_or_default()
    }
}

/// One domain: its images in order of class, then of path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Name of the folder.
    pub name: String,
    /// Its images.
    pub items: Vec<Item>,
}

/// A listed data set; no image is opened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Names of the classes, sorted.
    pub classes: Vec<String>,
    /// The domains, sorted by name: an environment's number is its place here.
    pub domains: Vec<Domain>,
}

impl Dataset {
    /// Lists `ROOT/DOMAIN/CLASS/image`.
    ///
    /// # Errors
    /// No such folder, no domains, domains whose classes differ (labels would shift silently), a class without an image.
    pub fn open(root: impl AsRef<Path>) -> Result<Dataset> {
        let root = root.as_ref();
        no_dead_links(root)?;
        let names = folders(root)?;
        let Some(first) = names.first() else {
            bail!("{}: no domain folders here: a data set is ROOT/DOMAIN/CLASS/image", root.display());
        };
        let classes = folders(&root.join(first))?;
        if let Some(why) = not_classes(&root.join(first), &classes) {
            bail!("{why}");
        }
        if classes.is_empty() {
            bail!(
                "{}: no class folders here: a data set is ROOT/DOMAIN/CLASS/image",
                root.join(first).display()
            );
        }
        let domains = names
            .iter()
            .map(|name| Ok(Domain { name: name.clone(), items: domain(&root.join(name), first, &classes)? }))
            .collect::<Result<_>>()?;
        Ok(Dataset { classes, domains })
    }

    /// The domains of a tree of added images, without those that are left out. It may lack classes, but must not have others than `classes`.
    ///
    /// # Errors
    /// No such folder; a class that the data set does not have.
    pub fn added(root: impl AsRef<Path>, classes: &[String], left_out: &LeftOut) -> Result<Vec<Domain>> {
        let root = root.as_ref();
        let mut domains = vec![];
        for name in folders(root)? {
            let mut items = vec![];
            for class in folders(&root.join(&name))? {
                let Some(label) = classes.iter().position(|c| *c == class) else {
                    bail!(
                        "{}: the data set has no class {class}; it has {}",
                        root.join(&name).join(&class).display(),
                        classes.join(", ")
                    );
                };
                items.extend(images(&root.join(&name).join(&class), label)?);
            }
            items.sort_by_key(|item| item.class);
            items.retain(|item| !left_out.contains_key(&below(&item.path, root)));
            if !items.is_empty() {
                domains.push(Domain { name, items });
            }
        }
        Ok(domains)
    }

    /// Number of the domain `name`.
    ///
    /// # Errors
    /// No such domain.
    pub fn env(&self, name: &str) -> Result<usize> {
        let found = self.domains.iter().position(|d| d.name == name);
        found.with_context(|| {
            let names: Vec<_> = self.domains.iter().map(|d| d.name.as_str()).collect();
            format!("no domain {name}: there are {}", names.join(", "))
        })
    }
}

fn domain(path: &Path, first: &str, classes: &[String]) -> Result<Vec<Item>> {
    no_dead_links(path)?;
    let own = folders(path)?;
    if own != classes {
        let missing: Vec<_> = classes.iter().filter(|c| !own.contains(c)).cloned().collect();
        let more: Vec<_> = own.iter().filter(|c| !classes.contains(c)).cloned().collect();
        let says = |what: &str, list: Vec<String>| match list.is_empty() {
            true => String::new(),
            false => format!(" {what} {}", list.join(", ")),
        };
        let pairs = missing.iter().flat_map(|a| more.iter().filter_map(move |b| Some((a, alike(a, b)?))));
        let spelled: String = pairs.map(|(a, why)| format!(" ({a} differs {why})")).collect();
        bail!(
            "{}: its classes differ from those of {first}:{}{}{spelled}; every domain must have the same class folders",
            path.display(),
            says("it lacks", missing.clone()),
            says("it also has", more.clone())
        );
    }
    let mut items = vec![];
    for (label, class) in classes.iter().enumerate() {
        let found = images(&path.join(class), label)?;
        if found.is_empty() {
            bail!(
                "{}: no images in this class folder: add some, or delete it in every domain",
                path.join(class).display()
            );
        }
        items.extend(found);
    }
    Ok(items)
}

/// What a class folder that is part of a split is called.
const SPLITS: [&str; 10] =
    ["train", "training", "val", "valid", "validation", "test", "testing", "crossval", "full", "dev"];

/// Why the folders in a domain are no classes, if they are the parts of a split.
pub(super) fn not_classes(domain: &Path, classes: &[String]) -> Option<String> {
    let is_split = |class: &String| SPLITS.contains(&class.to_lowercase().as_str());
    (!classes.is_empty() && classes.iter().all(is_split)).then(|| {
        let (place, names) = (domain.display(), classes.join(", "));
        format!(
            "{place}: its folders {names} are parts of a split, not classes: a data set is ROOT/DOMAIN/CLASS/image; move the class \
             folders of one part (or of all) up into {place}"
        )
    })
}

/// In what alone two different names differ, where people would take them for one.
pub(super) fn alike(a: &str, b: &str) -> Option<&'static str> {
    let composed = |name: &str| name.nfc().collect::<String>();
    let lower = |name: &str| composed(name).to_lowercase();
    let joined = |name: &str| lower(name).replace([' ', '_', '-'], "");
    match () {
        () if a == b => None,
        () if composed(a) == composed(b) => {
            Some("only in how its accented letters are composed (Unicode's NFC and NFD)")
        }
        () if lower(a) == lower(b) => Some("only in capital letters"),
        () if joined(a) == joined(b) => Some("only in blanks, _ and -"),
        () => None,
    }
}

/// Links in `path` that lead nowhere. Where folders belong they would shift labels or splits without a word.
pub(super) fn dead_links(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(files(path)?.into_iter().filter(|f| !f.exists()).collect())
}

fn no_dead_links(path: &Path) -> Result<()> {
    match dead_links(path)?.first() {
        Some(link) => bail!("{}: {NOWHERE}", link.display()),
        None => Ok(()),
    }
}

/// Names of the folders in `path`, sorted by code point. Links are followed.
pub(super) fn folders(path: &Path) -> Result<Vec<String>> {
    let list =
        std::fs::read_dir(path).with_context(|| format!("{}: cannot list the folder", path.display()))?;
    let mut names = vec![];
    for entry in list {
        let entry = entry.with_context(|| format!("{}: cannot list the folder", path.display()))?;
        if entry.path().is_dir() {
            let name = entry.file_name().into_string();
            names.push(name.map_err(|n| anyhow::anyhow!("{}: the name {n:?} is not UTF-8", path.display()))?);
        }
    }
    names.sort();
    Ok(names)
}

/// The images below `path` as torchvision's ImageFolder lists them: folders by their path, then files by name.
pub(super) fn images(path: &Path, class: usize) -> Result<Vec<Item>> {
    let mut all = vec![path.to_path_buf()];
    let mut next = 0;
    while next < all.len() {
        let here = all[next].clone();
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        for name in folders(&here)? {
            let below = here.join(name);
            if below.is_symlink() && real(&here).starts_with(real(&below)) {
                bail!("{}: a link that leads in a circle; delete it", below.display());
            }
            all.push(below);
        }
        next += 1;
    }
    all.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    let mut items = vec![];
    for folder in all {
        let found = files(&folder)?.into_iter().filter(|f| is_image(f));
        items.extend(found.map(|path| Item { path, class }));
    }
    Ok(items)
}

/// Whether a file's name ends as an image's does.
pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
}

/// The files in `path`, sorted by name, and links that lead nowhere: torchvision lists these too, and then fails to open them.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let list =
        std::fs::read_dir(path).with_context(|| format!("{}: cannot list the folder", path.display()))?;
    let mut files: Vec<PathBuf> = list
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|f| f.is_file() || f.is_symlink() && !f.exists())
        .collect();
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(files)
}

/// Decodes `items` on all cores; `each` is told of every image done.
///
/// # Errors
/// The first image, in order, that cannot be read.
pub fn load(items: &[Item], each: impl Fn() + Sync) -> Result<Vec<Rgb>> {
    let open = |item: &Item| {
        let image = Rgb::open(&item.path);
        each();
        image
    };
    items.par_iter().map(open).collect::<Vec<_>>().into_iter().collect()
}

/// DomainBed's `seed_hash`: MD5 of the Python text of the argument tuple (`(0, 3)`, `('VLCS', 'ERM', [1, 2], 1, 0)`),
/// modulo 2^31.
pub fn seed_hash(tuple: &str) -> u64 {
    let digest = md5::compute(tuple).0;
    digest.iter().fold(0u64, |rest, &byte| ((rest << 8) | u64::from(byte)) % (1 << 31))
}

/// DomainBed's split of the `n` images of environment `env`: the small (validation) part and the large (training) part,
/// as places in the environment's list, shuffled by numpy's `RandomState`.
pub fn split(n: usize, holdout_fraction: f64, trial_seed: u64, env: usize) -> (Vec<usize>, Vec<usize>) {
    let mut order = Mt19937::new(seed_hash(&format!("({trial_seed}, {env})"))).permutation(n);
    let rest = order.split_off((n as f64 * holdout_fraction) as usize);
    (order, rest)
}
