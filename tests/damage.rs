//! Files and replies that were damaged: whatever the bytes, the program that reads them gives a result or an error, soon, and never
//! panics. The readers are those of the fuzz targets; each gets its corpus and thousands of changed copies of it, the same in every run.

#[path = "../fuzz/readers.rs"]
mod readers;

use kaleid::data::rng::Key;
use readers::{READERS, Reader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time that one small input may take.
const SOON: Duration = Duration::from_secs(2);
/// Changed copies for each reader.
const COPIES: usize = 4000;

/// The files of `fuzz/corpus/NAME`.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let list = folder.read_dir().unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A copy of `seed` with up to four changes: bytes replaced, cut out, doubled, the end cut off.
fn changed(seed: &[u8], key: Key) -> Vec<u8> {
    const LIKELY: &[u8] = b"0123456789-\"{}[],:.eE\\\n\xff\x00\x80 |<>*#";
    let mut bytes = seed.to_vec();
    for change in 0..1 + key.below(0, 4) {
        if bytes.is_empty() {
            break;
        }
        let draw = |i: u32, below: u32| key.below(1 + 8 * change + i, below.max(1));
        let at = draw(0, bytes.len() as u32) as usize;
        let end = (at + 1 + draw(1, 24) as usize).min(bytes.len());
        match draw(2, 8) {
            0 => bytes[at] = draw(3, 256) as u8,
            1..=4 => bytes[at] = LIKELY[draw(3, LIKELY.len() as u32) as usize],
            5 => drop(bytes.drain(at..end)),
            6 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Reads `bytes`; a panic or a long time fails, and shows them.
fn read(name: &str, reader: Reader, bytes: &[u8]) {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| reader(bytes)));
    let took = start.elapsed();
    assert!(
        result.is_ok() && took < SOON,
        "{name}: panic or slow ({took:?}) with {:?}",
        String::from_utf8_lossy(bytes)
    );
}

#[test]
fn damaged_files_and_replies_give_results_or_errors_soon() {
    for (name, reader) in READERS {
        let seeds = corpus(name);
        for (s, seed) in seeds.iter().enumerate() {
            read(name, reader, seed);
            for copy in 0..COPIES.div_ceil(seeds.len()) {
                read(name, reader, &changed(seed, Key::new(s as u64, copy as u32, name)));
            }
        }
    }
}

#[test]
fn every_reader_is_a_fuzz_target() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    let targets = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap());
    assert!(targets.eq(READERS.iter().map(|(name, _)| *name)));
}
