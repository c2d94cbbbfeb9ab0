//! What the tests of commands share: a Stable Diffusion folder of synthetic weights, and a toy data set.
#![allow(dead_code)] // Each test uses a part of it.

use kaleid::core::{DType, Gpu, Graph, Store, Weights};
use kaleid::data::checkpoint::{self, Checkpoint, TensorData};
use kaleid::data::config::Config;
use kaleid::data::rng::Key;
use kaleid::data::synthetic;
use kaleid::models::clip::{TextConfig, text_model};
use kaleid::models::unet::{Inputs, UnetConfig, keys_and_values, unet};
use kaleid::models::vae::{VaeConfig, decode};
use std::collections::BTreeMap;
use std::path::Path;

pub const UNET: &str = r#"{"_class_name": "UNet2DConditionModel", "sample_size": 8, "cross_attention_dim": 16,
    "block_out_channels": [16, 32], "attention_head_dim": 2, "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}"#;
pub const VAE: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [16, 32], "norm_num_groups": 4,
    "layers_per_block": 1, "mid_block_add_attention": false,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
pub const TEXT: &str = r#"{"vocab_size": 600, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 12}"#;
pub const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false}"#;

/// Writes a Stable Diffusion folder.
pub fn write_model(gpu: &Gpu, folder: &Path) {
    let put = |file: &str, bytes: &[u8]| kaleid::data::write_atomic(folder.join(file), bytes).unwrap();
    put("unet/config.json", UNET.as_bytes());
    put("vae/config.json", VAE.as_bytes());
    put("text_encoder/config.json", TEXT.as_bytes());
    put("scheduler/scheduler_config.json", SCHEDULER.as_bytes());
    for file in ["vocab.json", "merges.txt"] {
        put(
            &format!("tokenizer/{file}"),
            &std::fs::read(Path::new("tests/golden/tokenizer_clip").join(file)).unwrap(),
        );
    }
    let save = |part: &str, record: &dyn Fn(&Graph, &Weights)| {
        let g = Graph::new(gpu.caps());
        let w = Weights::new(&g, DType::F32);
        record(&g, &w);
        let mut store = Store::new(gpu);
        store.load(&Checkpoint::synthetic(), &w.params()).unwrap();
        let mut tensors = BTreeMap::new();
        for param in w.params() {
            let (_, data) = store.read(&param.name).unwrap();
            let mut rest = &data[..];
            for (name, shape) in param.parts {
                let (own, others) = rest.split_at(shape.iter().product());
                tensors.insert(name, TensorData::f32(&shape, own));
                rest = others;
            }
        }
        if part == "text_encoder" {
            let name = "embeddings.token_embedding.weight";
            let table = TensorData::f32(&[600, 16], &synthetic::tensor(name, &[600, 16]));
            tensors.insert(name.into(), table);
        }
        checkpoint::save(folder.join(part).join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    };
    let config = |text| Config::parse("config.json", text).unwrap();
    let input = |g: &Graph, shape: &[usize]| g.input(&format!("x {shape:?}"), shape, DType::F32);
    save("unet", &|g, w| {
        let cfg = UnetConfig::new(&config(UNET)).unwrap();
        let (latents, time, context) = (input(g, &[1, 8, 8, 4]), input(g, &[1, 16]), input(g, &[1, 12, 16]));
        let context = keys_and_values(w, &cfg, context);
        unet(w, &cfg, Inputs { latents, time, guidance: None, context });
    });
    save("vae", &|g, w| {
        decode(w, &VaeConfig::new(&config(VAE)).unwrap(), input(g, &[1, 8, 8, 4]));
    });
    save("text_encoder", &|g, w| {
        text_model(w, &TextConfig::new(&config(TEXT)).unwrap(), input(g, &[1, 12, 16]));
    });
}

/// Three domains, two classes: squares that are brighter above or below, in tints that differ by domain.
pub fn toy(root: &Path) {
    for (d, domain) in ["art", "photo", "sketch"].into_iter().enumerate() {
        for (class, name) in ["down", "up"].into_iter().enumerate() {
            for i in 0..10u32 {
                let key = Key::new(d as u64, i, name);
                let pixel = |x: u32, y: u32| {
                    let bright = if (y < 8) == (class == 1) { 150.0 } else { 20.0 };
                    let noise = 60.0 * key.uniform(y * 16 + x);
                    image::Rgb([0, 1, 2].map(|c| (bright + noise + if c == d { 40.0 } else { 0.0 }) as u8))
                };
                let folder = root.join(domain).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                image::RgbImage::from_fn(16, 16, pixel).save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
}
