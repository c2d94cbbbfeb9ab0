//! Checks a folder of labelled images: everything that shifts labels, hides images, breaks a run hours after its start, or lets the
//! network see what it is tested on.

use super::dataset::{alike, dead_links, files, folders, images, is_image, not_classes};
use super::image::Rgb;
use super::known::{self, KNOWN, Known};
use super::{NOWHERE, decode, has_word};
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
    /// What is wrong.
    pub problems: Lines,
    /// What is worth knowing, though nothing is wrong with it.
    pub notes: Lines,
    originals: Vec<File>,
    generated: Vec<File>,
}

/// Lines by the kind of thing that they tell of.
#[derive(Debug, Default, PartialEq)]
pub struct Lines(BTreeMap<&'static str, Vec<String>>);

impl Lines {
    fn add(&mut self, kind: &'static str, line: String) {
        self.0.entry(kind).or_default().push(line);
    }

    /// Number of all lines.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All lines.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.0.values().flatten()
    }

    /// The kinds, with their lines.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.0.iter().map(|(kind, lines)| (*kind, lines.as_slice()))
    }
}

#[derive(Debug, PartialEq)]
struct File {
    domain: String,
    class: String,
    path: PathBuf,
}

impl Found {
    /// Lists the data set `root` and the tree `extra` of added (generated) images.
    ///
    /// # Errors
    /// A folder that cannot be listed. What is wrong with its content is no error but a line in [`Found::problems`].
    pub fn list(root: &Path, extra: Option<&Path>) -> Result<Found> {
        let mut found = Found::default();
        (found.domains, found.originals) = found.tree(root)?;
        if found.domains.is_empty() {
            let line =
                format!("{}: no domain folders here: a data set is ROOT/DOMAIN/CLASS/image", root.display());
            found.problems.add("empty", line);
        }
        found.known = compare(root, &found.domains, &mut found.problems);
        classes_agree(root, &found.domains, &mut found.problems);
        let classes: BTreeSet<String> = found.domains.values().flat_map(BTreeMap::keys).cloned().collect();
        for name in found.domains.keys().chain(&classes).filter(|name| !has_word(name)) {
            let line = format!(
                "{name:?} holds no word, so that nothing can be painted by it: name the folder after what it shows"
            );
            found.notes.add("names without a word", line);
        }
        let Some(extra) = extra else { return Ok(found) };
        (found.added, found.generated) = found.tree(extra)?;
        let unknown: Vec<PathBuf> = found
            .added
            .iter()
            .flat_map(|(domain, counts)| counts.keys().map(move |class| (domain, class)))
            .filter(|(_, class)| !classes.contains(*class))
            .map(|(domain, class)| extra.join(domain).join(class))
            .collect();
        for path in unknown {
            let class = path.file_name().unwrap_or_default().to_string_lossy();
            found
                .problems
                .add("unknown classes", format!("{}: the data set has no class {class}", path.display()));
        }
        Ok(found)
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.originals.len() + self.generated.len()
    }

    /// Opens every image: finds those that cannot be read, and copies where none may be. `each` is told of every image.
    pub fn read(&mut self, each: impl Fn() + Sync) {
        let seen = contents(&self.originals, &mut self.problems, &mut self.notes, &each);
        let painted = contents(&self.generated, &mut self.problems, &mut self.notes, &each);
        for files in seen.values().chain(painted.values()) {
            let [first, others @ ..] = &files[..] else { continue };
            let Some(second) = others.first() else { continue };
            let with = |other: &File| format!("{} and {}", first.path.display(), other.path.display());
            if let Some(other) = others.iter().find(|f| f.class != first.class) {
                let line = format!("{}: the same picture with two labels: one is wrong", with(other));
                self.problems.add("two labels", line);
            } else if let Some(other) = others.iter().find(|f| f.domain != first.domain) {
                let line = format!(
                    "{}: the same picture in two domains: what is tested on may be trained on; delete one",
                    with(other)
                );
                self.problems.add("two domains", line);
            } else {
                let line = format!(
                    "{}: the same picture twice: validation may see what was trained on",
                    with(second)
                );
                self.notes.add("copies", line);
            }
        }
        for (content, files) in &painted {
            let Some(original) = seen.get(content) else { continue };
            for file in files {
                let original = original[0].path.display();
                let line = format!(
                    "{}: the same picture as the original {original}: leakage; delete it",
                    file.path.display()
                );
                self.problems.add("leakage", line);
            }
        }
    }

    /// The domains of a tree, with their classes, and every image with its domain and class. Notes what is in odd places.
    fn tree(&mut self, root: &Path) -> Result<(BTreeMap<String, Counts>, Vec<File>)> {
        let (mut tree, mut all) = (BTreeMap::new(), vec![]);
        self.stray(root, "DOMAIN/CLASS")?;
        for domain in self.below(root)? {
            let path = root.join(&domain);
            if odd(&domain) {
                let line = format!("{}: DomainBed takes this folder for a domain; delete it", path.display());
                self.problems.add("odd folders", line);
                continue;
            }
            self.stray(&path, "CLASS")?;
            let classes = self.below(&path)?;
            if let Some(line) = not_classes(&path, &classes).or_else(|| too_deep(&path, &classes)) {
                self.problems.add("splits", line);
            }
            let mut counts = Counts::new();
            for class in classes {
                let path = path.join(&class);
                if odd(&class) {
                    let line =
                        format!("{}: torchvision takes this folder for a class; delete it", path.display());
                    self.problems.add("odd folders", line);
                    continue;
                }
                self.left_out(&path)?;
                let items = match images(&path, 0) {
                    Ok(items) => items,
                    Err(e) => {
                        self.problems.add("links", format!("{e:#}"));
                        vec![]
                    }
                };
                if items.is_empty() {
                    self.problems.add("empty", format!("{}: no images in this class folder", path.display()));
                }
                counts.insert(class.clone(), items.len());
                let file = |path| File { domain: domain.clone(), class: class.clone(), path };
                all.extend(items.into_iter().map(|item| file(item.path)));
            }
            if counts.is_empty() {
                self.problems.add("empty", format!("{}: no class folders in this domain", path.display()));
            }
            tree.insert(domain, counts);
        }
        Ok((tree, all))
    }

    /// The folders in `path`; notes links that lead nowhere.
    fn below(&mut self, path: &Path) -> Result<Vec<String>> {
        for link in dead_links(path)? {
            self.problems.add("links", format!("{}: {NOWHERE}", link.display()));
        }
        folders(path)
    }

    /// Images beside folders are never read.
    fn stray(&mut self, path: &Path, below: &str) -> Result<()> {
        for file in files(path)?.into_iter().filter(|f| is_image(f)) {
            let file = file.display();
            let line = format!("{file}: an image outside of {below} is used by nothing; move or delete it");
            self.problems.add("stray images", line);
        }
        Ok(())
    }

    /// Files in a class folder that are no images by their names: pictures all the same, or something else.
    fn left_out(&mut self, class: &Path) -> Result<()> {
        let others: Vec<PathBuf> = files(class)?.into_iter().filter(|f| !is_image(f)).collect();
        let (others, dead): (Vec<_>, Vec<_>) = others.into_iter().partition(|f| f.exists());
        for link in dead {
            self.problems.add("links", format!("{}: {NOWHERE}", link.display()));
        }
        let (pictures, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|f| is_picture(f));
        let told = |files: &[PathBuf]| {
            let ending = |f: &PathBuf| {
                f.extension().map_or("no ending".into(), |e| format!(".{}", e.to_string_lossy()))
            };
            let endings: BTreeSet<String> = files.iter().map(ending).collect();
            let endings: Vec<String> = endings.into_iter().collect();
            let files = if files.len() == 1 { "one file".into() } else { format!("{} files", files.len()) };
            format!("{}: {files} not read ({})", class.display(), endings.join(", "))
        };
        if !pictures.is_empty() {
            let line = format!("{}, but pictures: save them as .png or .jpg", told(&pictures));
            self.problems.add("endings that are not read", line);
        }
        if !rest.is_empty() {
            self.notes.add("other files", told(&rest));
        }
        Ok(())
    }
}

/// Why class folders are none: each holds the same folders, and no image of its own.
fn too_deep(domain: &Path, classes: &[String]) -> Option<String> {
    let first = folders(&domain.join(classes.first()?)).ok()?;
    let same = |class: &String| {
        let path = domain.join(class);
        folders(&path).is_ok_and(|f| f == first) && files(&path).is_ok_and(|f| !f.iter().any(|f| is_image(f)))
    };
    (classes.len() > 1 && !first.is_empty() && classes.iter().all(same)).then(|| {
        let (place, names) = (domain.display(), first.join(", "));
        format!(
            "{place}: each of its class folders holds the folders {names} and no image: are these the classes? Then {place} is the root \
             of the data set"
        )
    })
}

fn is_picture(file: &Path) -> bool {
    let mut start = [0; 16];
    let read = std::fs::File::open(file).and_then(|mut f| std::io::Read::read(&mut f, &mut start));
    read.is_ok_and(|n| decode::is_picture(&start[..n]))
}

/// Folders that archives and systems leave behind.
fn odd(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX"
}

/// The known data set that this one is, by its domains or by its folder's name. Adds what differs.
fn compare(root: &Path, domains: &BTreeMap<String, Counts>, problems: &mut Lines) -> Option<&'static str> {
    const KIND: &str = "not the known data set";
    let folder = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    let holds = |k: &&Known| k.domains.iter().all(|d| domains.contains_key(*d));
    let known = KNOWN.iter().find(holds).or_else(|| known::named(&known::name_of(&folder)))?;
    let Known { name, classes, .. } = known;
    for (domain, counts) in domains {
        let path = root.join(domain).display().to_string();
        let Some(i) = known.domains.iter().position(|d| d == domain) else {
            let all = known.domains.join(", ");
            problems.add(KIND, format!("{path}: {name} has no such domain; it has {all}"));
            continue;
        };
        let count: usize = counts.values().sum();
        if let Some(expected) = known.images.get(i).filter(|&&e| e != count) {
            let line =
                format!("{path}: {count} images; {name} has {expected} here: splits will not be DomainBed's");
            problems.add(KIND, line);
        }
        if counts.len() != *classes {
            problems.add(KIND, format!("{path}: {} classes; {name} has {classes}", counts.len()));
        }
    }
    for domain in known.domains.iter().filter(|d| !domains.contains_key(**d)) {
        problems.add(KIND, format!("{}: the domain {domain} of {name} is missing", root.display()));
    }
    Some(name)
}

/// Every domain must have the classes that most have, or labels shift.
fn classes_agree(root: &Path, domains: &BTreeMap<String, Counts>, problems: &mut Lines) {
    const KIND: &str = "classes";
    let with = |class: &String| domains.values().filter(|c| c.contains_key(class)).count();
    let all: BTreeSet<&String> = domains.values().flat_map(BTreeMap::keys).collect();
    for (domain, counts) in domains {
        let path = root.join(domain).display().to_string();
        let (mut names, mut spelled) = (counts.keys(), BTreeSet::new());
        while let Some(name) = names.next() {
            if let Some((other, how)) = names.clone().find_map(|other| Some((other, alike(name, other)?))) {
                problems
                    .add(KIND, format!("{path}: {name:?} and {other:?} differ {how}: are they one class?"));
            }
        }
        // Of two spellings, one line.
        for class in all.iter().filter(|c| !counts.contains_key(**c)) {
            if let Some((own, how)) = counts.keys().find_map(|own| Some((own, alike(own, class)?))) {
                let line = format!(
                    "{path}: the class {own} and other domains' {class} differ {how}: give both one name"
                );
                problems.add(KIND, line);
                spelled.extend([own, *class]);
            }
        }
        for class in all.iter().filter(|c| !spelled.contains(**c)) {
            let (has, most) = (counts.contains_key(*class), 2 * with(class) >= domains.len());
            match (has, most) {
                (false, true) => {
                    problems.add(KIND, format!("{path}: the class {class} of other domains is missing"))
                }
                (true, false) => problems.add(KIND, format!("{path}: other domains have no class {class}")),
                _ => {}
            }
        }
    }
}

/// What a file turned out to be.
struct Content {
    digest: [u8; 16],
    is_turned: bool,
    is_misnamed: bool,
}

/// Files by what they show: MD5 of size and pixels, as the same picture may be packed in two ways. Names those that cannot be read.
fn contents<'a>(
    files: &'a [File],
    problems: &mut Lines,
    notes: &mut Lines,
    each: &(impl Fn() + Sync),
) -> BTreeMap<[u8; 16], Vec<&'a File>> {
    let content = |file: &File| {
        let content = read(&file.path);
        each();
        content
    };
    let contents: Vec<Result<Content>> = files.par_iter().map(content).collect();
    let mut by_content: BTreeMap<[u8; 16], Vec<_>> = BTreeMap::new();
    for (file, content) in files.iter().zip(contents) {
        let path = file.path.display();
        match content {
            Ok(content) => {
                by_content.entry(content.digest).or_default().push(file);
                if content.is_turned {
                    notes.add(
                        "turned",
                        format!(
                            "{path}: to be turned, says its EXIF; it is seen as stored, as DomainBed sees it"
                        ),
                    );
                }
                if content.is_misnamed {
                    notes.add(
                        "of another format",
                        format!("{path}: of another format than its name says; it is read as what it is"),
                    );
                }
            }
            Err(e) if file.path.is_symlink() && !file.path.exists() => {
                problems.add("links", format!("{e:#}"))
            }
            Err(e) => problems.add("unreadable", format!("{e:#}")),
        }
    }
    by_content
}

fn read(path: &Path) -> Result<Content> {
    let image = Rgb::open(path)?;
    let bytes = std::fs::read(path)?;
    let mut data = image.data;
    data.extend((image.width as u64).to_le_bytes());
    let named = image::ImageFormat::from_path(path).ok();
    Ok(Content {
        digest: md5::compute(&data).0,
        is_turned: decode::is_turned(&bytes),
        is_misnamed: named.is_some() && named != decode::format(&bytes),
    })
}
