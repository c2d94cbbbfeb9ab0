//! Pictures that are painted from others: each from an original of its class, chosen by its seed, so that labels stay.

use super::picture::Picture;
use crate::data::dataset::Dataset;
use crate::data::rng::Key;
use anyhow::{Context, Result, bail};
use std::path::{Component, Path};

/// Gives every picture without an original one of its class from the data set in `root`, but for the domains in `hold_out`. The n-th picture
/// without a seed counts as `seed` + n, as it does when it is painted.
///
/// # Errors
/// A data set that does not open, a picture without a class, or with one that has no originals.
pub fn assign(pictures: &mut [Picture], root: &Path, hold_out: &[String], seed: u64) -> Result<()> {
    let dataset = Dataset::open(root)?;
    if let Some(name) = hold_out.iter().find(|name| !dataset.domains.iter().any(|d| d.name == **name)) {
        bail!("{}: no domain {name} to hold out", root.display());
    }
    let domains = dataset.domains.iter().filter(|domain| !hold_out.contains(&domain.name));
    let items: Vec<_> = domains.flat_map(|domain| &domain.items).collect();
    for (i, picture) in pictures.iter_mut().enumerate().filter(|(_, picture)| picture.init.is_none()) {
        let name = &picture.file_name;
        let class =
            picture.class.as_ref().with_context(|| format!("{name} has no class to take an original of"))?;
        let number = dataset.classes.iter().position(|c| c == class);
        let own: Vec<_> = items.iter().filter(|item| Some(item.class) == number).collect();
        if own.is_empty() {
            bail!("{}: no originals of the class {class}, which {name} is of", root.display());
        }
        let key = Key::new(picture.seed.unwrap_or(seed.wrapping_add(i as u64)), 0, "original");
        let chosen = (key.uniform(0) * own.len() as f32) as usize;
        picture.init = Some(own[chosen.min(own.len() - 1)].path.clone());
    }
    Ok(())
}

/// What a data set calls an image: DOMAIN/CLASS/image.
pub fn named(path: &Path) -> String {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let parts: Vec<_> = named.map(|part| part.as_os_str().to_string_lossy()).collect();
    parts[parts.len().saturating_sub(3)..].join("/")
}
