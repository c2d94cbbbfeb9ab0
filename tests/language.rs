//! CLIP's embedder and chats, from folders as they are downloaded; the models themselves are goldens: `kaleid verify`.

use kaleid::core::{DType, Gpu, GpuOptions};
use kaleid::data::checkpoint::{Checkpoint, TensorData, save};
use kaleid::data::config::Config;
use kaleid::data::folder::Folder;
use kaleid::data::image::{Filter, Rgb};
use kaleid::data::preprocess::Preprocess;
use kaleid::data::rng::Key;
use kaleid::data::synthetic;
use kaleid::data::tokenizer::Tokenizer;
use kaleid::engines::chat::ChatModel;
use kaleid::engines::clip::{ClipEmbedder, PromptReader, TextEncoder};
use kaleid::engines::llama::{Llama, argmax};
use kaleid::engines::sampling::Sampling;
use kaleid::models::clip::{ClipConfig, TextConfig};
use kaleid::verify::golden::Comparison;
use std::path::Path;

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::from_env()).unwrap()
}

fn golden(name: &str) -> Folder {
    Folder::from(Path::new("tests/golden")).sub(name)
}

fn preprocess(keys: &str) -> anyhow::Result<Preprocess> {
    Preprocess::new(&Config::parse("preprocessor_config.json", keys)?)
}

/// Some colours that depend on `seed`.
fn image(seed: u32, width: usize, height: usize) -> Rgb {
    let key = Key::new(u64::from(seed), 0, "image");
    Rgb { width, height, data: (0..width * height * 3).map(|i| key.below(i as u32, 256) as u8).collect() }
}

#[test]
fn preprocessing_equals_pillow() {
    let text = std::fs::read_to_string("tests/golden/clip_preprocess.json").unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let data = case["image"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect();
        let image = Rgb { width: number("width"), height: number("height"), data };
        let (size, crop) = (number("size"), number("crop"));
        for keys in [
            format!(r#"{{"size": {size}, "crop_size": {crop}}}"#),
            format!(
                r#"{{"size": {{"shortest_edge": {size}}}, "crop_size": {{"height": {crop}, "width": {crop}}}}}"#
            ),
        ] {
            let pixels = preprocess(&keys).unwrap().pixels(&image);
            let want = case["pixels"].as_array().unwrap();
            assert_eq!(pixels.len(), want.len());
            for (a, b) in pixels.iter().zip(want) {
                assert!((f64::from(*a) - b.as_f64().unwrap()).abs() < 2e-5, "{a} for {b}");
            }
        }
    }
}

/// The middle of a long image is resized as if all of it were; to do that to the last one would take gigabytes.
#[test]
fn long_images_are_cut_before_they_are_resized() {
    let plain = preprocess(
        r#"{"size": 32, "crop_size": 32, "image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": 3}"#,
    );
    let plain = plain.unwrap();
    for (width, height) in [(1, 200), (4, 101), (4, 100), (300, 3), (1, 1_000_000)] {
        let image = image(7, width, height);
        let pixels = plain.pixels(&image);
        assert_eq!(pixels.len(), 32 * 32 * 3);
        if width.max(height) < 1000 {
            let (short, long) = (width.min(height), width.max(height));
            let long = 32 * long / short;
            let (w, h) = if width < height { (32, long) } else { (long, 32) };
            let whole = image.resize(w, h, Filter::Bicubic).crop((w - 32) / 2, (h - 32) / 2, 32, 32);
            let whole: Vec<f32> = whole.data.iter().map(|&v| f32::from(v) / 255.0).collect();
            assert_eq!(pixels, whole, "{width} x {height}");
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let error = |keys: &str| preprocess(keys).unwrap_err().to_string();
    assert_eq!(error(r#"{"resample": 0}"#), "preprocessor_config.json: resample = 0 is not supported");
    assert_eq!(
        error(r#"{"do_resize": false}"#),
        "preprocessor_config.json: do_resize = false is not supported"
    );
    assert!(error(r#"{"size": {"height": 3, "width": 3}}"#).contains("size = {"));
    assert!(error(r#"{"crop_size": 300}"#).contains("crop_size = 300 is more than size = 224"));
    assert!(error(r#"{"image_mean": [0.5]}"#).contains("image_mean = [0.5]"));
    assert!(error(r#"{"image_std": [1, 0, 1]}"#).contains("image_std"));
    let error =
        |keys: &str| ClipConfig::new(&Config::parse("config.json", keys).unwrap()).unwrap_err().to_string();
    assert_eq!(
        error(r#"{"text_config": {"hidden_act": "relu"}}"#),
        r#"config.json: text_config: hidden_act = "relu" is not supported"#
    );
    assert!(error(r#"{"vision_config": {"num_attention_heads": 7}}"#).contains("num_attention_heads = 7"));
    assert!(error(r#"{"vision_config": {"num_channels": 1}}"#).contains("num_channels = 1"));
    assert!(error(r#"{"vision_config": {"patch_size": 300}}"#).contains("patch_size = 300"));
}

#[test]
fn embeddings_have_length_one_and_do_not_depend_on_their_neighbours() {
    let gpu = gpu();
    let config = Config::of(&golden("clip_tiny")).unwrap();
    let embedder = |size: &str| {
        let tokenizer = Tokenizer::open(&golden("tokenizer_clip")).unwrap();
        ClipEmbedder::new(
            &gpu,
            &config,
            preprocess(size).unwrap(),
            Checkpoint::synthetic(),
            tokenizer,
            DType::F32,
        )
    };
    let wrong = embedder("{}").err().unwrap().to_string();
    assert!(wrong.contains("image_size = 32, but the preprocessor's crop_size is 224"), "{wrong}");
    let mut clip = embedder(r#"{"size": 32, "crop_size": 32}"#).unwrap();
    let images: Vec<Rgb> = (0..10).map(|i| image(i, 30 + i as usize, 40)).collect();
    let all = clip.images(&images).unwrap().unit;
    let texts: Vec<String> = (0..9).map(|i| format!("a photo of {i} cats")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let words = clip.texts(&texts).unwrap();
    assert_eq!((all.len(), words.len(), clip.width()), (10, 9, 32));
    for e in all.iter().chain(&words) {
        let length: f32 = e.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    assert_eq!(clip.images(&images[9..]).unwrap().unit[0], all[9]);
    assert_eq!(clip.texts(&texts[4..5]).unwrap()[0], words[4]);
    assert!(all[0] != all[1] && clip.images(&[]).unwrap().unit.is_empty());
}

#[test]
fn a_text_encoder_reads_files_with_and_without_the_old_prefix() {
    let gpu = gpu();
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::from(dir.path());
    let config = golden("text_sd1_tiny").text("config.json").unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("text_encoder/config.json", config.as_bytes());
    for file in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        write(&format!("tokenizer/{file}"), &golden("tokenizer_clip").read(file).unwrap());
    }
    let mut shapes = vec![
        ("embeddings.token_embedding.weight".to_string(), vec![600, 64]),
        ("embeddings.position_embedding.weight".to_string(), vec![77, 64]),
    ];
    let mut layer = |name: String, shape: Vec<usize>| {
        shapes.push((format!("{name}.bias"), shape[..1].to_vec()));
        shapes.push((format!("{name}.weight"), shape));
    };
    layer("final_layer_norm".into(), vec![64]);
    for i in 0..3 {
        let at = format!("encoder.layers.{i}");
        ["layer_norm1", "layer_norm2"].iter().for_each(|n| layer(format!("{at}.{n}"), vec![64]));
        ["q", "k", "v", "out"].iter().for_each(|n| layer(format!("{at}.self_attn.{n}_proj"), vec![64, 64]));
        layer(format!("{at}.mlp.fc1"), vec![128, 64]);
        layer(format!("{at}.mlp.fc2"), vec![64, 128]);
    }
    let open = || {
        let encoder = folder.sub("text_encoder");
        let config = TextConfig::new(&Config::of(&encoder)?)?;
        let reader = PromptReader::new(Tokenizer::open(&folder.sub("tokenizer"))?, &config, &[])?;
        TextEncoder::new(&gpu, config, encoder.weights()?, reader, DType::F32)
    };
    let mut contexts = Vec::new();
    for prefix in ["", "text_model."] {
        let tensor = |(name, shape): &(String, Vec<usize>)| {
            (format!("{prefix}{name}"), TensorData::f32(shape, &synthetic::tensor(name, shape)))
        };
        let tensors = shapes.iter().map(tensor).collect();
        save(dir.path().join("text_encoder/model.safetensors"), &tensors, &Default::default()).unwrap();
        let mut encoder = open().unwrap();
        assert_eq!(encoder.shape(), [77, 64]);
        contexts.push(encoder.encode(&["a photo of a cat", ""], 1).unwrap());
    }
    assert_eq!(contexts[0].len(), 2 * 77 * 64);
    assert_eq!(contexts[0], contexts[1]);
    // A prompt of two chunks is what its chunks are alone, and an empty one follows a shorter one.
    let mut encoder = open().unwrap();
    let cats = |n: usize| vec!["cat"; n].join(" ");
    let fitting = (1..).find(|n| encoder.reader().ids(&cats(n + 1)).unwrap().len() > 1).unwrap();
    let (first, second) = (cats(fitting), "a dog");
    let both = encoder.encode(&[&format!("{first} {second}"), second], 2).unwrap();
    let apart = encoder.encode(&[&first, second, second, ""], 1).unwrap();
    assert!(both == apart, "{fitting} cats");
    write("text_encoder/config.json", config.replace("128", "130").as_bytes());
    let wrong = open().err().unwrap().to_string();
    assert!(wrong.contains("fc1.weight has shape [128, 64], expected [130, 64]"), "{wrong}");
}

#[test]
fn a_text_read_in_runs_of_many_tokens_gives_what_single_ones_give() {
    let config = Config::of(&golden("llama_tiny")).unwrap();
    let mut llama = Llama::new(&gpu(), &config, Checkpoint::synthetic(), 1000, DType::F32).unwrap();
    let key = Key::new(0, 0, "tokens");
    let ids: Vec<u32> = (0..100).map(|i| key.below(i, 512)).collect();
    let whole = llama.read_each(&ids).unwrap();
    assert_eq!(whole.len(), 100 * 512);
    llama.reset();
    llama.read(&ids[..70]).unwrap();
    for i in 70..100 {
        let one = llama.read(&ids[i..=i]).unwrap();
        let error = Comparison::new("logits", &one, &whole[i * 512..][..512], 1e-5);
        assert!(error.holds(), "token {i}: {error:?}");
    }
    // The model was made for 128 positions, so there is room for 28 more.
    let last = llama.generate(&ids[..1], 100, |logits| Some(argmax(logits))).unwrap();
    assert_eq!(last.len(), 28);
    assert!(llama.read(&ids[..1]).unwrap_err().to_string().contains("room for 128"));
}

#[test]
fn attention_sees_more_as_a_text_grows() {
    let config = Config::of(&golden("llama_tiny")).unwrap().with("max_position_embeddings", 600);
    let open = |context| Llama::new(&gpu(), &config, Checkpoint::synthetic(), context, DType::F32).unwrap();
    let key = Key::new(1, 0, "tokens");
    let ids: Vec<u32> = (0..300).map(|i| key.below(i, 512)).collect();
    // One that sees all of its room from the start, and one that sees 256 and then 512 of it.
    let whole = open(300).read_each(&ids).unwrap();
    let mut grows = open(600);
    grows.read(&ids[..250]).unwrap();
    for i in 250..300 {
        let error =
            Comparison::new("logits", &grows.read(&ids[i..=i]).unwrap(), &whole[i * 512..][..512], 1e-5);
        assert!(error.holds(), "token {i}: {error:?}");
    }
}

#[test]
fn a_chat_replies_the_same_to_the_same_draw() {
    let gpu = gpu();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("config.json", &golden("llama_tiny").text("config.json").unwrap());
    write("generation_config.json", r#"{"eos_token_id": [2, 7]}"#);
    let words: Vec<String> = (0..512).map(|i| format!("\"w{i}\": {i}")).collect();
    let tokenizer = format!(
        r#"{{"version": "1.0", "added_tokens": [], "pre_tokenizer": {{"type": "Whitespace"}},
            "model": {{"type": "WordLevel", "unk_token": "w0", "vocab": {{{}}}}}}}"#,
        words.join(", ")
    );
    write("tokenizer.json", &tokenizer);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![512, 48]),
        ("model.norm.weight".into(), vec![48]),
    ];
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{i}.{name}.weight"), shape.to_vec()));
        };
        ["input_layernorm", "post_attention_layernorm"].iter().for_each(|n| add(n, &[48]));
        ["self_attn.q_proj", "self_attn.o_proj"].iter().for_each(|n| add(n, &[48, 48]));
        ["self_attn.k_proj", "self_attn.v_proj"].iter().for_each(|n| add(n, &[16, 48]));
        ["mlp.gate_proj", "mlp.up_proj"].iter().for_each(|n| add(n, &[96, 48]));
        add("mlp.down_proj", &[48, 96]);
    }
    let tensors =
        shapes.iter().map(|(n, s)| (n.clone(), TensorData::f32(s, &synthetic::tensor(n, s)))).collect();
    save(dir.path().join("model.safetensors"), &tensors, &Default::default()).unwrap();
    let folder = Folder::from(dir.path());
    write("tokenizer_config.json", "{}");
    let error = ChatModel::open(&gpu, &folder, 64, DType::F32, false).err().unwrap().to_string();
    assert!(error.contains("no chat_template"), "{error}");
    write(
        "tokenizer_config.json",
        r#"{"chat_template": "{% for m in messages %}w5 {{ m.content }} {% endfor %}w6"}"#,
    );

    let mut chat = ChatModel::open(&gpu, &folder, 64, DType::F32, false).unwrap();
    let mut reply = |seed: u64, temperature: f32| {
        let sampling = Sampling { most: 12, temperature, top_p: 0.95, ..Sampling::default() };
        chat.reply(&[("user", "w10 w11 w12")], sampling, Key::new(seed, 0, "chat")).unwrap()
    };
    let (a, greedy) = (reply(1, 1.0), reply(1, 0.0));
    assert_eq!(a, reply(1, 1.0));
    assert_eq!(greedy, reply(2, 0.0));
    assert_ne!(a, reply(2, 1.0));
    let long = vec!["w1"; 80].join(" ");
    let sampling = Sampling { most: 1, ..Sampling::default() };
    let error = chat.reply(&[("user", &long)], sampling, Key::new(0, 0, "chat")).unwrap_err().to_string();
    assert!(error.contains("the text is too long") && error.contains("room for 64"), "{error}");
}
