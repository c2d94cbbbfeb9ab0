//! `kaleid generate` on a model of synthetic weights: images do not depend on their neighbours in a batch, a run that is taken
//! up again ends with the same bytes, and what is wrong is said in one line.

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Store, Weights};
use kaleid::data::checkpoint::{self, Checkpoint, TensorData};
use kaleid::data::folder::Folder;
use kaleid::diffusion::sampler::Options;
use kaleid::models::clip::{TextConfig, text_model};
use kaleid::models::config::Config;
use kaleid::models::unet::{UnetConfig, unet};
use kaleid::models::vae::{VaeConfig, decode};
use kaleid::pipeline::generate::{self, Job, Summary};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const UNET: &str = r#"{"_class_name": "UNet2DConditionModel", "sample_size": 8, "cross_attention_dim": 16,
    "block_out_channels": [16, 32], "attention_head_dim": 2, "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}"#;
const VAE: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [16, 32], "norm_num_groups": 4,
    "layers_per_block": 1, "mid_block_add_attention": false,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
const TEXT: &str = r#"{"vocab_size": 600, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 12}"#;
const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false}"#;

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::from_env()).unwrap()
}

/// Writes a Stable Diffusion folder.
fn write_model(gpu: &Gpu, folder: &Path) {
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
        store.load(&Checkpoint::synthetic(), &w).unwrap();
        let mut tensors = BTreeMap::new();
        for (name, _) in w.params() {
            let (shape, data) = store.read(&name).unwrap();
            tensors.insert(name, TensorData::f32(&shape, &data));
        }
        if part == "text_encoder" {
            let name = "embeddings.token_embedding.weight";
            let table = TensorData::f32(&[600, 16], &checkpoint::synthetic(name, &[600, 16]));
            tensors.insert(name.into(), table);
        }
        checkpoint::save(folder.join(part).join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    };
    let config = |text| Config::parse("config.json", text).unwrap();
    let input = |g: &Graph, shape: &[usize]| g.input("x", shape, DType::F32);
    save("unet", &|g, w| {
        let cfg = UnetConfig::new(&config(UNET)).unwrap();
        unet(g, w, &cfg, input(g, &[1, 8, 8, 4]), input(g, &[1, 16]), None, input(g, &[1, 12, 16]));
    });
    save("vae", &|g, w| {
        decode(g, w, &VaeConfig::new(&config(VAE)).unwrap(), input(g, &[1, 8, 8, 4]));
    });
    save("text_encoder", &|g, w| {
        text_model(g, w, &TextConfig::new(&config(TEXT)).unwrap(), input(g, &[1, 12, 16]));
    });
}

fn options() -> Options {
    Options {
        size: None,
        batch: Some(2),
        steps: 3,
        guidance: 3.0,
        scheduler: Some("euler-a".into()),
        negative: String::new(),
    }
}

fn jobs() -> Vec<Job> {
    let job = |(i, prompt): (usize, &&str)| Job {
        prompt: prompt.to_string(),
        file_name: format!("new/{i}.png"),
        seed: Some(7 + i as u64),
        domain: Some("new".into()),
        class: None,
    };
    ["a dog", "a house, naïve art", "a dog"].iter().enumerate().map(job).collect()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> =
        (0..3).map(|i| (i.to_string(), read(&folder.join(format!("new/{i}.png"))))).collect();
    files.insert("metadata".into(), read(&folder.join("metadata.jsonl")));
    files
}

#[test]
fn images_depend_on_their_own_prompt_and_seed_only() {
    let (gpu, temp) = (gpu(), tempfile::tempdir().unwrap());
    let (model, out) = (temp.path().join("model"), temp.path().join("out"));
    write_model(&gpu, &model);
    let folder = Folder::from(model.as_path());
    let run = |jobs: &[Job], out: &Path, options: &Options| {
        generate::run(&gpu, &folder, jobs, out, options, 0).unwrap()
    };
    assert_eq!(run(&jobs(), &out, &options()), Summary { painted: 3, kept: 0 });
    let whole = files(&out);
    let row = std::str::from_utf8(&whole["metadata"]).unwrap().lines().nth(1).unwrap();
    assert_eq!(
        row,
        r#"{"file_name":"new/1.png","domain":"new","prompt":"a house, naïve art","seed":8,"steps":3,"guidance":3.0,"scheduler":"euler-a","width":16,"height":16,"model":"model"}"#
    );
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8().into_raw();
    assert_ne!(pixels(&whole["0"]), pixels(&whole["2"]), "another seed is another image");

    // Nothing is left to do; then one image is gone, and is painted without its neighbour.
    assert_eq!(run(&jobs(), &out, &options()), Summary { painted: 0, kept: 3 });
    std::fs::remove_file(out.join("new/1.png")).unwrap();
    std::fs::remove_file(out.join("metadata.jsonl")).unwrap();
    assert_eq!(run(&jobs(), &out, &options()), Summary { painted: 1, kept: 2 });
    assert_eq!(files(&out), whole);

    // Other neighbours, and another batch: its kernels may round differently.
    let mut reversed = jobs();
    reversed.reverse();
    run(&reversed, &temp.path().join("reversed"), &options());
    let other = files(&temp.path().join("reversed"));
    (0..3).for_each(|i| assert_eq!(other[&i.to_string()], whole[&i.to_string()]));
    run(&jobs(), &temp.path().join("single"), &Options { batch: Some(1), ..options() });
    let single = files(&temp.path().join("single"));
    for i in ["0", "1", "2"] {
        let (a, b) = (pixels(&single[i]), pixels(&whole[i]));
        assert!(a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1), "image {i}");
    }

    // Other settings are other images.
    let summary = run(&jobs(), &out, &Options { guidance: 1.0, size: Some([20, 16]), ..options() });
    assert_eq!(summary, Summary { painted: 3, kept: 0 });
    assert_eq!(image::open(out.join("new/0.png")).unwrap().to_rgb8().dimensions(), (16, 20));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let (gpu, temp) = (gpu(), tempfile::tempdir().unwrap());
    let model = temp.path().join("model");
    write_model(&gpu, &model);
    let error = |args: &[&str]| {
        let out = temp.path().join("out");
        let program = Command::new(env!("CARGO_BIN_EXE_kaleid"))
            .arg("generate")
            .arg("--out")
            .arg(out)
            .args(args)
            .output();
        let program = program.unwrap();
        let text = String::from_utf8(program.stderr).unwrap();
        let line =
            text.lines().find(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{text}")).to_string();
        assert_eq!(program.status.code(), Some(2), "{text}");
        line
    };
    let at = |args: &[&str]| {
        let model = model.to_str().unwrap();
        error(&[&["--model", model], args].concat())
    };
    let expect =
        |line: String, parts: &[&str]| parts.iter().for_each(|p| assert!(line.contains(p), "{line}"));

    expect(error(&["--model", "nowhere", "--prompt", "a"]), &["nowhere: no such folder"]);
    expect(
        error(&["--model", "tests", "--prompt", "a"]),
        &["tests: not a Stable Diffusion folder: it has no unet"],
    );
    expect(at(&["--prompt", "a", "--size", "17"]), &["size 17x17: width and height must be multiples of 2"]);
    expect(
        at(&["--prompt", "a", "--scheduler", "heun"]),
        &["scheduler \"heun\" is not known; choose one of ddim"],
    );
    expect(at(&["--prompt", "a", "--steps", "2000"]), &["2000 steps: the ddim scheduler takes 1 to 1000"]);
    expect(
        at(&["--prompt", "a", "--size", "8192"]),
        &["8192x8192 in batches of 1: ", "choose a smaller size"],
    );
    let prompts = temp.path().join("prompts.jsonl");
    let prompts_are = |text: &str| {
        std::fs::write(&prompts, text).unwrap();
        at(&["--prompts", prompts.to_str().unwrap()])
    };
    expect(
        prompts_are("{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n"),
        &["prompts.jsonl, line 2", "missing field `prompt`"],
    );
    expect(prompts_are(r#"{"prompt": "a", "file_name": "../a.png"}"#), &["\"../a.png\" must be the name"]);
    expect(prompts_are(""), &["prompts.jsonl: no prompts in it"]);

    let file = model.join("unet/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    expect(at(&["--prompt", "a"]), &["unet/model.safetensors"]);
    std::fs::write(
        model.join("unet/config.json"),
        UNET.replace("\"sample_size\": 8", "\"class_embed_type\": \"timestep\""),
    )
    .unwrap();
    expect(at(&["--prompt", "a"]), &["unet/config.json: class_embed_type = \"timestep\" is not supported"]);
}
