//! What the tests of commands share: a Stable Diffusion folder of synthetic weights, and a toy data set.
#![allow(dead_code)] // Each test uses a part of it.

use kaleid::core::{DType, Gpu, Graph, Param, Weights};
use kaleid::data::checkpoint::{self, TensorData};
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

/// Configurations of a Stable Diffusion, and the folder with its tokenizer.
pub struct Configs<'a> {
    pub unet: &'a str,
    pub vae: &'a str,
    pub text: &'a str,
    pub scheduler: &'a str,
    pub tokenizer: &'a Path,
}

/// Writes a Stable Diffusion folder, the smallest of all.
pub fn write_model(gpu: &Gpu, folder: &Path) {
    let tokenizer = Path::new("tests/golden/tokenizer_clip");
    write_model_of(
        gpu,
        folder,
        &Configs { unet: UNET, vae: VAE, text: TEXT, scheduler: SCHEDULER, tokenizer },
    );
}

/// Writes a Stable Diffusion folder of these configurations, with weights made up from their names.
pub fn write_model_of(gpu: &Gpu, folder: &Path, configs: &Configs) {
    let put = |file: &str, bytes: &[u8]| kaleid::data::write_atomic(folder.join(file), bytes).unwrap();
    put("unet/config.json", configs.unet.as_bytes());
    put("vae/config.json", configs.vae.as_bytes());
    put("text_encoder/config.json", configs.text.as_bytes());
    put("scheduler/scheduler_config.json", configs.scheduler.as_bytes());
    for file in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        if let Ok(bytes) = std::fs::read(configs.tokenizer.join(file)) {
            put(&format!("tokenizer/{file}"), &bytes);
        }
    }
    let config = |text| Config::parse("config.json", text).unwrap();
    let text = TextConfig::new(&config(configs.text)).unwrap();
    let (positions, hidden) = (text.positions, text.hidden_size());
    let save = |part: &str, record: &dyn Fn(&Graph, &Weights)| {
        let g = Graph::new(gpu.caps());
        let w = Weights::new(&g, DType::F32);
        record(&g, &w);
        let part_of = |param: Param| param.parts;
        let mut tensors = BTreeMap::new();
        for (name, shape) in w.params().into_iter().flat_map(part_of) {
            let data = synthetic::tensor(&name, &shape);
            tensors.insert(name, TensorData::f32(&shape, &data));
        }
        if part == "text_encoder" {
            let (name, shape) = ("embeddings.token_embedding.weight", [text.vocab_size, hidden]);
            tensors.insert(name.into(), TensorData::f32(&shape, &synthetic::tensor(name, &shape)));
        }
        checkpoint::save(folder.join(part).join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    };
    let input = |g: &Graph, shape: &[usize]| g.input(&format!("x {shape:?}"), shape, DType::F32);
    save("unet", &|g, w| {
        let cfg = UnetConfig::new(&config(configs.unet)).unwrap();
        let (latents, time) = (input(g, &[1, 8, 8, 4]), input(g, &[1, cfg.timestep_width()]));
        let context = keys_and_values(w, &cfg, input(g, &[1, positions, hidden]));
        unet(w, &cfg, Inputs { latents, time, guidance: None, context });
    });
    save("vae", &|g, w| {
        decode(w, &VaeConfig::new(&config(configs.vae)).unwrap(), input(g, &[1, 8, 8, 4]));
    });
    save("text_encoder", &|g, w| {
        text_model(w, &text, input(g, &[1, positions, hidden]));
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
