//! Files and replies that were damaged: whatever the bytes, the program that reads them gives a result or an error, soon, and never
//! panics. Each reader gets seeds that are whole, and thousands of changed copies of them, the same in every run.

use kaleid::data::checkpoint::Checkpoint;
use kaleid::data::config::Config;
use kaleid::data::decode::decode;
use kaleid::data::folder::Folder;
use kaleid::data::preprocess::Preprocess;
use kaleid::data::rng::Key;
use kaleid::data::tokenizer::Tokenizer;
use kaleid::diffusion::Scheduler;
use kaleid::models::clip::{ClipConfig, TextConfig};
use kaleid::models::llama::LlamaConfig;
use kaleid::models::unet::UnetConfig;
use kaleid::models::vae::VaeConfig;
use kaleid::paint::picture::read_pictures;
use kaleid::paint::prompts::read_reply;
use kaleid::study::config::Study;
use kaleid::sweep::records::record;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time that one small input may take.
const SOON: Duration = Duration::from_secs(2);

/// Gives `read` changed copies of `seeds`: bytes replaced, cut out, doubled, and the end cut off.
fn damage(name: &str, seeds: &[&[u8]], copies: u32, read: impl Fn(&[u8])) {
    for (s, seed) in seeds.iter().enumerate() {
        read(seed);
        for copy in 0..copies {
            let key = Key::new(s as u64, copy, name);
            let mut bytes = seed.to_vec();
            for change in 0..1 + key.below(0, 4) {
                if bytes.is_empty() {
                    break;
                }
                let draw = |i: u32, below: u32| key.below(1 + 8 * change + i, below.max(1));
                let at = draw(0, bytes.len() as u32) as usize;
                let end = (at + 1 + draw(1, 24) as usize).min(bytes.len());
                const LIKELY: &[u8] = b"0123456789-\"{}[],:.eE\\\n\xff\x00\x80 |<>*#";
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
            let start = Instant::now();
            read(&bytes);
            let took = start.elapsed();
            assert!(took < SOON, "{name}: {took:?} for {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn images() {
    let seeds: [&[u8]; 5] = [
        include_bytes!("data/images/progressive.jpg"),
        include_bytes!("data/images/baseline.jpg"),
        include_bytes!("data/images/palette.tif"),
        include_bytes!("data/images/grey_alpha.tif"),
        include_bytes!("data/images/cmyk.tif"),
    ];
    damage("image", &seeds, 400, |bytes| drop(decode(bytes)));
    let rgb = image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, 9]));
    for format in ["png", "gif", "bmp", "pnm", "webp", "qoi", "tga"] {
        let mut bytes = std::io::Cursor::new(vec![]);
        let format = image::ImageFormat::from_extension(format).unwrap();
        image::DynamicImage::from(rgb.clone()).write_to(&mut bytes, format).unwrap();
        damage("image", &[bytes.get_ref()], 300, |bytes| drop(decode(bytes)));
    }
}

#[test]
fn configurations() {
    let unet = br#"{"_class_name": "UNet2DConditionModel", "sample_size": 8, "cross_attention_dim": 16, "block_out_channels": [16, 32],
        "attention_head_dim": 2, "layers_per_block": 1, "norm_num_groups": 4, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}"#;
    let vae = br#"{"_class_name": "AutoencoderKL", "block_out_channels": [16, 32], "norm_num_groups": 4, "layers_per_block": 1}"#;
    let clip = br#"{"architectures": ["CLIPModel"], "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "vision_config": {"image_size": 8, "patch_size": 4, "hidden_size": 16}, "projection_dim": 8}"#;
    let llama = br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 64, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "eos_token_id": [1, 2]}"#;
    let scheduler = br#"{"_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule":
        "scaled_linear", "lambda_min_clipped": -Infinity, "num_train_timesteps": 1000, "timestep_spacing": "leading"}"#;
    let processor = br#"{"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}, "image_mean": [0.5, 0.5, 0.5]}"#;
    damage("config", &[unet, vae, clip, llama, scheduler, processor], 1500, |bytes| {
        let Ok(config) = Config::parse("config.json", &String::from_utf8_lossy(bytes)) else { return };
        let _ = (UnetConfig::new(&config), VaeConfig::new(&config), ClipConfig::new(&config));
        let _ = (TextConfig::new(&config), LlamaConfig::new(&config), Preprocess::new(&config));
        for name in [None, Some("euler-karras"), Some("lcm"), Some("pndm")] {
            let _ = Scheduler::for_stable_diffusion(&config, name).and_then(|s| s.points(7));
        }
    });
}

#[test]
fn tokenizers() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer_clip");
    let read = |file: &str| std::fs::read(golden.join(file)).unwrap();
    let files = [
        ("vocab.json", read("vocab.json")),
        ("merges.txt", read("merges.txt")),
        ("added_tokens.json", br#"{"<cat>": 900}"#.to_vec()),
        ("tokenizer_config.json", br#"{"model_max_length": 77, "pad_token": {"content": "!"}}"#.to_vec()),
    ];
    for (damaged, whole) in &files {
        for (name, bytes) in &files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        damage(damaged, &[whole], 150, |bytes| {
            std::fs::write(dir.path().join(damaged), bytes).unwrap();
            if let Ok(mut tokenizer) = Tokenizer::open(&Folder::from(dir.path())) {
                let _ = tokenizer.encode("a photo of a <cat>, naïve");
                let _ = tokenizer
                    .pad_to(9)
                    .and_then(|()| tokenizer.lost("a photo of a cat, naïve art").map(str::len));
            }
        });
    }
}

#[test]
fn texts_of_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.jsonl");
    let prompts = "{\"prompt\": \"a dog\", \"file_name\": \"a/b.png\", \"seed\": 42.0}\n{\"prompt\": \"é\", \"seed\": null}\n";
    damage("prompts", &[prompts.as_bytes()], 1500, |bytes| {
        std::fs::write(&file, bytes).unwrap();
        drop(read_pictures(&file));
    });
    let result = br#"{"args": {"algorithm": "ERM", "dataset": "toy", "hparams_seed": 0, "test_envs": [1], "trial_seed": 0}, "env0_in_acc": 1.0,
        "env0_out_acc": 0.5, "env1_in_acc": NaN, "hparams": {}, "step": 3, "env1_in_balanced_acc": 0.5}"#;
    let place = Path::new("job/results.jsonl");
    damage("results", &[result], 3000, |bytes| drop(record(place, &String::from_utf8_lossy(bytes))));
    let study = b"data = 'd'\ntest_domain = 't'\n[images]\nmodel = 'm'\nsize = [64, 64]\n[score]\nclip = 'c'\n[compare]\nseeds = 3\n[train]\nsteps = 7\n";
    damage("study", &[study], 1500, |bytes| drop(Study::parse(&String::from_utf8_lossy(bytes), "run.toml")));
    let header = br#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    damage("weights", &[&whole], 3000, |bytes| {
        if let Ok(checkpoint) = Checkpoint::from_bytes("damaged", bytes.to_vec()) {
            checkpoint.names().for_each(|name| drop(checkpoint.tensor(name)));
        }
    });
}

#[test]
fn replies() {
    let good = "A dog stands in a sunny meadow, drawn in watercolor style with bold outlines, warm colours and a soft background of hills.";
    let seeds = [
        format!("<think>hm</think>Sure! Here it is:\n\n**\"{good}\"**\n\n(Word count: 40) Let me know!"),
        "| # | Domain |\n|---|---|\n| 1 | Watercolor |\n| 2 | 像素艺术 |".into(),
        "1. **Watercolor**: soft\n   - Soft washes\n2. Pixel Art (blocky)\n## Neon\n**Mosaic**: x".into(),
        r#"{"domains":{"1":"watercolor","2":["pixel art", {"name": "neon"}]}}"#.into(),
        format!(r#"{{"choices":[{{"message":{{"content":"{good}","refusal":null}},"finish_reason":"stop"}}]}}"#),
        "data: {\"choices\":[{\"delta\":{\"content\":\"a dog\"}}]}\n\ndata: {\"error\":{\"code\":429}}\n\ndata: [DONE]\n".into(),
        "<|channel|>analysis<|message|>A dog.<|end|><|channel|>final<|message|>neon, İstanbul and ẞ<|return|>".into(),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(|s| s.as_bytes()).collect();
    damage("replies", &seeds, 1500, |bytes| read_reply(&String::from_utf8_lossy(bytes)));
}
