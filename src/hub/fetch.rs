//! What is fetched of a repository: a model's configurations, its tokenizer, and one of the forms of its weights.

use super::cache::{Cache, is_offline};
use super::client::{Client, Remote, Repository, verify};
use super::{Name, is_inside};
use crate::data::disk::room_for;
use crate::data::lock::try_lock;
use crate::data::text;
use crate::data::weight_files;
use crate::progress::{self, Progress};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

/// Folders of a Stable Diffusion repository that are used.
const PARTS: [&str; 5] = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"];
/// Endings of files beside weights that models open with.
const SMALL: [&str; 4] = [".json", ".txt", ".jinja", ".model"];

/// What a fetch brought, or would bring.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it lies: the folder of the repository at that commit, or the file.
    pub path: PathBuf,
    /// Files and their bytes.
    pub files: Vec<(String, u64)>,
    /// Bytes that were not there.
    pub missing: u64,
    /// As the repository's card says it.
    pub licence: Option<String>,
}

/// Brings what a program opens of a repository into the cache; with `dry`, only says what that would be.
///
/// # Errors
/// No such repository or file, one that may not be read, a server that fails, contents that are not those that it names, a full disk,
/// Ctrl-C; offline, files that are not in the cache.
pub fn fetch(name: &Name, dry: bool) -> Result<Fetched> {
    let cache = Cache::of(name)?;
    if is_offline() {
        return kept(name, &cache);
    }
    let client = Client::new()?;
    let found = match client.repository(name) {
        Ok(found) => found,
        // What was fetched before will do where there is no way to the hub.
        Err(e) => {
            let Ok(kept) = kept(name, &cache) else { return Err(e) };
            progress::say(&format!("{e:#}; taking what is in the cache"));
            return Ok(kept);
        }
    };
    let files = wanted(name, &found, &client, &cache)?;
    let commit = &found.commit;
    let mut remotes = vec![];
    for file in files {
        let there = cache.snapshot(commit).join(&file);
        let remote = match there.metadata() {
            Ok(metadata) => Remote { etag: String::new(), size: Some(metadata.len()) },
            Err(_) => client.remote(name, commit, &file)?,
        };
        remotes.push((file, remote));
    }
    let is_missing = |(file, _): &&(String, Remote)| !cache.snapshot(commit).join(file).exists();
    let size = |(_, remote): &(String, Remote)| remote.size.unwrap_or(0);
    let missing: u64 = remotes.iter().filter(is_missing).map(size).sum();
    if !dry {
        get(name, &cache, &client, commit, &remotes.iter().filter(is_missing).collect::<Vec<_>>(), missing)?;
        cache.set_commit(&name.revision, commit)?;
    }
    let path = place(name, &cache, commit);
    let files = remotes.into_iter().map(|(file, remote)| (file, remote.size.unwrap_or(0))).collect();
    Ok(Fetched { path, files, missing, licence: found.licence })
}

fn place(name: &Name, cache: &Cache, commit: &str) -> PathBuf {
    let folder = cache.snapshot(commit);
    name.file.as_ref().map_or(folder.clone(), |file| folder.join(file))
}

/// What an earlier fetch left.
fn kept(name: &Name, cache: &Cache) -> Result<Fetched> {
    let path =
        cache.commit(&name.revision).map(|commit| place(name, cache, &commit)).filter(|path| path.exists());
    let path = path.with_context(|| {
        format!(
            "hf:{}: not in the cache, and HF_HUB_OFFLINE says to fetch nothing; run `kaleid fetch` online",
            name.id()
        )
    })?;
    Ok(Fetched { path, files: vec![], missing: 0, licence: None })
}

/// Brings files one after the other.
fn get(
    name: &Name,
    cache: &Cache,
    client: &Client,
    commit: &str,
    files: &[&(String, Remote)],
    bytes: u64,
) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let had: u64 = files.iter().map(|(_, remote)| partial_bytes(cache, remote)).sum();
    room_for(&cache.blob(""), bytes.saturating_sub(had))?;
    let progress = Progress::new(&format!("{} of {}", files.len(), name.id()), bytes, "bytes");
    progress.skip(had);
    for (file, remote) in files {
        let said = |e: anyhow::Error| anyhow!("hf:{}:{file}: {e:#}", name.id());
        one(name, cache, client, commit, file, remote, &progress).map_err(said)?;
    }
    progress.finish();
    Ok(())
}

fn partial_bytes(cache: &Cache, remote: &Remote) -> u64 {
    std::fs::metadata(cache.partial(&remote.etag)).map_or(0, |m| m.len())
}

/// Brings the contents of a file, unless another name has them, and links it to them.
fn one(
    name: &Name,
    cache: &Cache,
    client: &Client,
    commit: &str,
    file: &str,
    remote: &Remote,
    progress: &Progress,
) -> Result<()> {
    let Remote { etag, size } = remote;
    let (blob, lock) = (cache.blob(etag), cache.lock(etag));
    for folder in [blob.parent(), lock.parent()].into_iter().flatten() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot write", folder.display()))?;
    }
    let held = File::create(&lock).with_context(|| format!("{}: cannot write", lock.display()))?;
    if try_lock(&held).is_none() {
        progress.say(&format!("{file}: another process is fetching it; waiting"));
        held.lock()?;
    }
    if !blob.exists() {
        let partial = cache.partial(etag);
        client.bytes(name, commit, file, *size, &partial, progress)?;
        if let Err(e) = verify(&partial, etag, *size) {
            // From the beginning the next time.
            let _ = std::fs::remove_file(&partial);
            bail!("{e}; fetch it again");
        }
        std::fs::rename(&partial, &blob).with_context(|| format!("{}: cannot write", blob.display()))?;
    }
    cache.link(commit, file, etag)
}

/// The files of a repository that are used.
fn wanted(name: &Name, found: &Repository, client: &Client, cache: &Cache) -> Result<Vec<String>> {
    if let Some(file) = &name.file {
        return match found.files.contains(file) {
            true => Ok(vec![file.clone()]),
            false => bail!("hf:{} has no file {file}", name.id()),
        };
    }
    let files: Vec<&String> = found.files.iter().filter(|file| is_inside(file)).collect();
    if name.is_dataset {
        let data = |file: &&&String| file.ends_with(".parquet") || file.as_str() == "README.md";
        return Ok(files.iter().filter(data).map(|file| file.to_string()).collect());
    }
    let is_painter = files.iter().any(|file| *file == "model_index.json");
    let folders: BTreeSet<&str> = match is_painter {
        true => PARTS.into(),
        false => [""].into(),
    };
    let mut all: Vec<String> = vec![];
    all.extend(is_painter.then(|| "model_index.json".to_string()));
    for folder in folders {
        let inside = |file: &&String| -> Option<String> {
            let rest = if folder.is_empty() {
                file.as_str()
            } else {
                file.strip_prefix(folder)?.strip_prefix('/')?
            };
            (!rest.contains('/')).then(|| rest.to_string())
        };
        let names: Vec<String> = files.iter().filter_map(inside).collect();
        let path = |file: &str| if folder.is_empty() { file.to_string() } else { format!("{folder}/{file}") };
        let small =
            |file: &&String| SMALL.iter().any(|e| file.ends_with(e)) && !file.ends_with(".index.json");
        all.extend(names.iter().filter(small).map(|file| path(file)));
        let Ok(Some(weights)) = weight_files::choose(&names) else { continue };
        all.push(path(&weights));
        if weights.ends_with(".json") {
            all.extend(shards(name, found, client, cache, &path(&weights))?.iter().map(|file| path(file)));
        }
    }
    if all.is_empty() {
        bail!("hf:{}: no file in it that this program opens", name.id());
    }
    Ok(all)
}

/// The files that an index lists, for which it is fetched.
fn shards(
    name: &Name,
    found: &Repository,
    client: &Client,
    cache: &Cache,
    index: &str,
) -> Result<Vec<String>> {
    let place = cache.snapshot(&found.commit).join(index);
    if !place.exists() {
        let remote = client.remote(name, &found.commit, index)?;
        let progress = Progress::new("index", remote.size.unwrap_or(0), "bytes");
        one(name, cache, client, &found.commit, index, &remote, &progress)?;
    }
    let listed: Value =
        text::json(&text::read(&place)?).map_err(|e| anyhow!("{index}: not valid JSON: {e}"))?;
    let map = listed["weight_map"].as_object().with_context(|| format!("{index}: no weight_map in it"))?;
    let files: BTreeSet<&str> =
        map.values().filter_map(Value::as_str).filter(|file| is_inside(file)).collect();
    progress::bail_if_stopped()?;
    Ok(files.into_iter().map(str::to_string).collect())
}

/// Size in words.
pub fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
