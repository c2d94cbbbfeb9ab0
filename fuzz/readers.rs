//! Readers of what users, files and servers bring: whatever the bytes, each gives a result or an error, soon, and never panics. The fuzz
//! targets and `tests/damage.rs` share them; `corpus/NAME` holds inputs of each.

use kaleid::data::checkpoint::Checkpoint;
use kaleid::data::config::Config;
use kaleid::data::decode::decode;
use kaleid::data::folder::Folder;
use kaleid::data::parquet;
use kaleid::data::preprocess::Preprocess;
use kaleid::data::tokenizer::Tokenizer;
use kaleid::diffusion::Scheduler;
use kaleid::models::clip::{ClipConfig, TextConfig};
use kaleid::models::gguf;
use kaleid::models::inversion::Inversion;
use kaleid::models::ldm;
use kaleid::models::llama::LlamaConfig;
use kaleid::models::lora;
use kaleid::models::taesd::TaesdConfig;
use kaleid::models::unet::UnetConfig;
use kaleid::models::vae::VaeConfig;
use kaleid::paint::painted::is_painted;
use kaleid::paint::picture::read_pictures;
use kaleid::paint::prompts::read_reply;
use kaleid::study::config::Study;
use kaleid::sweep::collect::{paper, tables};
use kaleid::sweep::records::Records;
use kaleid::sweep::table::Format;
use std::io::Cursor;

/// Reads bytes and leaves what it finds.
pub type Reader = fn(&[u8]);

/// All readers by name.
pub const READERS: [(&str, Reader); 11] = [
    ("weights", weights),
    ("lora", lora),
    ("table", table),
    ("config", config),
    ("tokenizer", tokenizer),
    ("prompts", prompts),
    ("results", results),
    ("painted", painted),
    ("image", |bytes| drop(decode(bytes))),
    ("study", |bytes| drop(Study::parse(&String::from_utf8_lossy(bytes), "run.toml"))),
    ("reply", |bytes| read_reply(&String::from_utf8_lossy(bytes))),
];

/// The reader of this name.
#[allow(dead_code, reason = "the test goes through all of them")]
pub fn named(name: &str) -> Reader {
    READERS.iter().find(|(n, _)| *n == name).expect("a reader of this name").1
}

/// A file of weights of any format, and what it may be: a Stable Diffusion, a language model.
fn weights(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::from_bytes("weights", bytes.to_vec()) {
        checkpoint.names().for_each(|name| drop(checkpoint.tensor(name)));
        let _ = (ldm::other_model(&checkpoint), ldm::unet(&checkpoint).map(drop));
        let _ = (ldm::vae(&checkpoint).map(drop), ldm::text(&checkpoint).map(drop));
        let _ = Tokenizer::of_gguf("weights", checkpoint.header());
        drop(gguf::open(checkpoint));
    }
}

/// Differences to the weights of a small model, and words for its prompts.
fn lora(bytes: &[u8]) {
    let model =
        || Checkpoint::from_bytes("unet", include_bytes!("../tests/data/lora/unet.safetensors").to_vec());
    let mut unet = model().expect("a file of ours");
    let mut text = unet.clone();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    if lora::merge(file.path(), 0.5, &mut unet, &mut text).is_ok() {
        unet.names().for_each(|name| drop(unet.tensor(name)));
    }
    drop(Inversion::open(file.path(), 8));
}

/// Images in a parquet file.
fn table(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let file = dir.path().join("a.parquet");
    std::fs::write(&file, bytes).expect("a temporary file");
    drop(parquet::unpack(&[file], &dir.path().join("data"), || Ok(())));
}

/// The `config.json` of any model, of a scheduler, of an image processor.
fn config(bytes: &[u8]) {
    let Ok(config) = Config::parse("config.json", &String::from_utf8_lossy(bytes)) else { return };
    let _ = (UnetConfig::new(&config), VaeConfig::new(&config), TaesdConfig::new(&config));
    let _ = (ClipConfig::new(&config), TextConfig::new(&config), LlamaConfig::new(&config));
    drop(Preprocess::new(&config));
    for name in [None, Some("euler-karras"), Some("lcm"), Some("pndm")] {
        let _ = Scheduler::for_stable_diffusion(&config, name).and_then(|s| s.points(7));
    }
}

/// The files of a tokenizer, each below a line `=== NAME`.
fn tokenizer(bytes: &[u8]) {
    const FILES: [&str; 5] =
        ["tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"];
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let text = String::from_utf8_lossy(bytes);
    for part in text.split("=== ") {
        let (name, content) = part.split_once('\n').unwrap_or((part, ""));
        if FILES.contains(&name) {
            std::fs::write(dir.path().join(name), content).expect("a temporary file");
        }
    }
    if let Ok(mut tokenizer) = Tokenizer::open(&Folder::from(dir.path())) {
        let _ = tokenizer.encode("a photo of a <cat>, naïve");
        let _ =
            tokenizer.pad_to(9).and_then(|()| tokenizer.lost("a photo of a cat, naïve art").map(str::len));
    }
}

/// `prompts.jsonl`.
fn prompts(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    drop(read_pictures(file.path()));
}

/// `results.jsonl` of a training in a sweep, as far as the tables.
fn results(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let job = dir.path().join("job");
    std::fs::create_dir(&job).expect("a temporary folder");
    std::fs::write(job.join("results.jsonl"), bytes).expect("a temporary file");
    let records = Records::read(dir.path()).expect("a folder that can be read");
    let _ = (tables(&records).render(Format::Text), paper(&records).render(Format::Markdown));
}

/// A painted image and its texts.
fn painted(bytes: &[u8]) {
    let metadata =
        serde_json::json!({"file_name": "a.png", "prompt": "a dog", "seed": 42, "width": 4, "height": 4});
    is_painted(Cursor::new(bytes), metadata.as_object().expect("an object"));
}
