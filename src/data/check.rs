//! Checks a folder of labelled images: everything that shifts labels, hides images, breaks a run hours after its start, or lets the
//! network see what it is tested on.

use super::dataset::{files, folders, images, is_image};
use super::image::Rgb;
use super::known::{self, KNOWN, Known};
use anyhow::Result;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Number of images of each class of one domain.
pub type Counts = BTreeMap<String, usize>;

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// The data set it was taken for, if it is a known one.
    pub known: Option<&'static str>,
    /// Its domains.
    pub domains: BTreeMap<String, Counts>,
    /// The domains of the added images.
    pub added: BTreeMap<String, Counts>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    originals: Vec<File>,
    generated: Vec<File>,
}

#[derive(Debug, PartialEq)]
struct File {
    domain: String,
    path: PathBuf,
}

impl Found {
    /// Lists the data set `root` and the tree `extra` of added (generated) images.
    ///
    /// # Errors
    /// A folder that cannot be listed. What is wrong with its content is no error but a line in [`Found::problems`].
    pub fn list(root: &Path, extra: Option<&Path>) -> Result<Found> {
        let mut found = Found::default();
        (found.domains, found.originals) = list(root, &mut found.problems)?;
        if found.domains.is_empty() {
            let root = root.display();
            found
                .problems
                .push(format!("{root}: no domain folders here: a data set is ROOT/DOMAIN/CLASS/image"));
        }
        found.known = compare(root, &found.domains, &mut found.problems);
        classes_agree(root, &found.domains, &mut found.problems);
        let Some(extra) = extra else { return Ok(found) };
        (found.added, found.generated) = list(extra, &mut found.problems)?;
        let classes: BTreeSet<&String> = found.domains.values().flat_map(BTreeMap::keys).collect();
        for (domain, counts) in &found.added {
            for class in counts.keys().filter(|c| !classes.contains(c)) {
                let path = extra.join(domain).join(class);
                found.problems.push(format!("{}: the data set has no class {class}", path.display()));
            }
        }
        Ok(found)
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.originals.len() + self.generated.len()
    }

    /// Opens every image: finds those that cannot be read, and copies where none may be. `each` is told of every image.
    pub fn read(&mut self, each: impl Fn() + Sync) {
        let seen = contents(&self.originals, &mut self.problems, &each);
        let painted = contents(&self.generated, &mut self.problems, &each);
        for files in seen.values() {
            if let Some(other) = files.iter().find(|f| f.domain != files[0].domain) {
                self.problems.push(format!(
                    "{} and {}: the same picture in two domains: what is tested on may be trained on; delete one",
                    files[0].path.display(),
                    other.path.display()
                ));
            }
        }
        for (content, files) in &painted {
            let Some(original) = seen.get(content) else { continue };
            self.problems.extend(files.iter().map(|f| {
                let original = original[0].path.display();
                format!(
                    "{}: the same picture as the original {original}: leakage; delete it",
                    f.path.display()
                )
            }));
        }
    }
}

/// The domains of a tree, with their classes, and every image with its domain. Adds what is in odd places to `problems`.
fn list(root: &Path, problems: &mut Vec<String>) -> Result<(BTreeMap<String, Counts>, Vec<File>)> {
    let (mut tree, mut all) = (BTreeMap::new(), vec![]);
    stray(root, "DOMAIN/CLASS", problems)?;
    for domain in folders(root)? {
        let path = root.join(&domain);
        if odd(&domain) {
            problems.push(format!("{}: DomainBed takes this folder for a domain; delete it", path.display()));
            continue;
        }
        stray(&path, "CLASS", problems)?;
        let mut counts = Counts::new();
        for class in folders(&path)? {
            let path = path.join(&class);
            if odd(&class) {
                problems.push(format!(
                    "{}: torchvision takes this folder for a class; delete it",
                    path.display()
                ));
                continue;
            }
            let items = images(&path, 0)?;
            if items.is_empty() {
                problems.push(format!("{}: no images in this class folder", path.display()));
            }
            counts.insert(class, items.len());
            all.extend(items.into_iter().map(|item| File { domain: domain.clone(), path: item.path }));
        }
        if counts.is_empty() {
            problems.push(format!("{}: no class folders in this domain", path.display()));
        }
        tree.insert(domain, counts);
    }
    Ok((tree, all))
}

/// Folders that archives and systems leave behind.
fn odd(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX"
}

/// Images beside folders are never read.
fn stray(path: &Path, below: &str, problems: &mut Vec<String>) -> Result<()> {
    let lost = files(path)?.into_iter().filter(|f| is_image(f));
    problems.extend(lost.map(|f| {
        format!("{}: an image outside of {below} is used by nothing; move or delete it", f.display())
    }));
    Ok(())
}

/// The known data set that this one is, by its domains or by its folder's name. Adds what differs.
fn compare(
    root: &Path,
    domains: &BTreeMap<String, Counts>,
    problems: &mut Vec<String>,
) -> Option<&'static str> {
    let folder = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    let holds = |k: &&Known| k.domains.iter().all(|d| domains.contains_key(*d));
    let known = KNOWN.iter().find(holds).or_else(|| known::named(&known::name_of(&folder)))?;
    let Known { name, classes, .. } = known;
    for (domain, counts) in domains {
        let path = root.join(domain).display().to_string();
        let Some(i) = known.domains.iter().position(|d| d == domain) else {
            let all = known.domains.join(", ");
            problems.push(format!("{path}: {name} has no such domain; it has {all}"));
            continue;
        };
        let count: usize = counts.values().sum();
        if let Some(expected) = known.images.get(i).filter(|&&e| e != count) {
            problems.push(format!(
                "{path}: {count} images; {name} has {expected} here: splits will not be DomainBed's"
            ));
        }
        if counts.len() != *classes {
            problems.push(format!("{path}: {} classes; {name} has {classes}", counts.len()));
        }
    }
    for domain in known.domains.iter().filter(|d| !domains.contains_key(**d)) {
        problems.push(format!("{}: the domain {domain} of {name} is missing", root.display()));
    }
    Some(name)
}

/// Every domain must have the classes that most have, or labels shift.
fn classes_agree(root: &Path, domains: &BTreeMap<String, Counts>, problems: &mut Vec<String>) {
    let with = |class: &String| domains.values().filter(|c| c.contains_key(class)).count();
    let all: BTreeSet<&String> = domains.values().flat_map(BTreeMap::keys).collect();
    for (domain, counts) in domains {
        let path = root.join(domain).display().to_string();
        for class in &all {
            let (has, most) = (counts.contains_key(*class), 2 * with(class) >= domains.len());
            match (has, most) {
                (false, true) => {
                    problems.push(format!("{path}: the class {class} of other domains is missing"))
                }
                (true, false) => problems.push(format!("{path}: other domains have no class {class}")),
                _ => {}
            }
        }
    }
}

/// Files by what they show: MD5 of size and pixels, as the same picture may be packed in two ways. Names those that cannot be read.
fn contents<'a>(
    files: &'a [File],
    problems: &mut Vec<String>,
    each: &(impl Fn() + Sync),
) -> BTreeMap<[u8; 16], Vec<&'a File>> {
    let digest = |file: &File| {
        let image = Rgb::open(&file.path);
        each();
        let mut image = image?;
        image.data.extend((image.width as u64).to_le_bytes());
        anyhow::Ok(md5::compute(&image.data).0)
    };
    let digests: Vec<Result<[u8; 16]>> = files.par_iter().map(digest).collect();
    let mut by_content: BTreeMap<[u8; 16], Vec<_>> = BTreeMap::new();
    for (file, digest) in files.iter().zip(digests) {
        match digest {
            Ok(digest) => by_content.entry(digest).or_default().push(file),
            Err(e) => problems.push(format!("{e:#}")),
        }
    }
    by_content
}
