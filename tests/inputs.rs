//! Everything that can be checked is checked before work begins: of a command with two faults, the one that needs no weights and no
//! pixels is named. And what a command says of inputs that it takes, but not as they are meant.

mod common;

use common::{TEXT, toy, write_model};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::checkpoint::{Checkpoint, TensorData, save};
use kaleid::data::folder::Folder;
use kaleid::data::preprocess::Preprocess;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn kaleid(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kaleid")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn fails(args: &[&str], says: &str) {
    let output = kaleid(args);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains(says), "{says:?} is not in: {said}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn model(folder: &Path) -> PathBuf {
    write_model(&Gpu::open(&GpuOptions::from_env()).unwrap(), folder);
    folder.to_path_buf()
}

/// Writes a checkpoint again, with what `change` makes of each tensor.
fn rewrite(file: &Path, change: impl Fn(&str, Vec<f32>) -> Option<Vec<f32>>) {
    let old = Checkpoint::open(file).unwrap();
    let mut tensors = BTreeMap::new();
    for name in old.names() {
        let (shape, data) = old.tensor(name).unwrap();
        if let Some(data) = change(name, data) {
            tensors.insert(name.to_string(), TensorData::f32(&shape, &data));
        }
    }
    drop(old);
    save(file, &tensors, &BTreeMap::new()).unwrap();
}

/// Puts a number that is not finite into every tensor: whoever reads one of them says so.
fn spoil(file: &Path) {
    rewrite(file, |_, data| Some(vec![f32::NAN; data.len()]));
}

#[test]
fn generate_sees_all_parts_and_the_output_before_it_reads_weights() {
    let temp = tempfile::tempdir().unwrap();
    let model = model(&temp.path().join("model"));
    let weights = |part: &str| model.join(part).join("model.safetensors");
    let out = temp.path().join("out");
    let args = ["generate", "--model", path(&model), "--prompt", "a", "--steps", "1", "--out", path(&out)];
    ["text_encoder", "unet"].into_iter().for_each(|part| spoil(&weights(part)));
    let whole = std::fs::read(weights("vae")).unwrap();
    rewrite(&weights("vae"), |name, data| (name != "decoder.conv_out.bias").then_some(data));
    fails(&args, "vae/model.safetensors: no tensor decoder.conv_out.bias");
    std::fs::write(weights("vae"), &whole).unwrap();
    // An output that cannot be.
    std::fs::write(&out, "a file").unwrap();
    fails(&args, "out: cannot make the folder");
    std::fs::remove_file(&out).unwrap();
    fails(&args, "text_encoder/model.safetensors: ");
}

#[test]
fn what_a_prompt_loses_is_said_before_anything_is_painted() {
    let temp = tempfile::tempdir().unwrap();
    let (model, out) = (model(&temp.path().join("model")), temp.path().join("out"));
    let prompts = temp.path().join("prompts.jsonl");
    let long = "a dog a dog a dog a dog a dog, watercolor style";
    std::fs::write(&prompts, format!("{{\"prompt\": \"a dog\"}}\n{{\"prompt\": \"{long}\"}}\n")).unwrap();
    spoil(&model.join("text_encoder/model.safetensors"));
    let output = kaleid(&[
        "generate",
        "--model",
        path(&model),
        "--prompts",
        path(&prompts),
        "--out",
        path(&out),
        "--steps",
        "1",
    ]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let warning = said.lines().find(|line| line.starts_with("warning: ")).unwrap_or_default();
    assert!(warning.contains("1 of 2 prompts are longer than the 12 tokens"), "{said}");
    assert!(warning.contains("watercolor style\" of 00001.png"), "{said}");
    // What it is about to do, too.
    assert!(said.contains("UNet") && said.contains("2 images of 16x16 in 1 steps"), "{said}");
}

#[test]
fn a_tokenizer_of_another_model_is_seen_before_anything_is_painted() {
    let temp = tempfile::tempdir().unwrap();
    let (model, out) = (model(&temp.path().join("model")), temp.path().join("out"));
    let few = TEXT.replace("\"vocab_size\": 600", "\"vocab_size\": 5");
    std::fs::write(model.join("text_encoder/config.json"), few).unwrap();
    let file = model.join("text_encoder/model.safetensors");
    let held = Checkpoint::open(&file).unwrap();
    let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
    for name in held.names() {
        let (mut shape, mut data) = held.tensor(name).unwrap();
        if name.ends_with("token_embedding.weight") {
            shape[0] = 5;
            data.truncate(5 * shape[1]);
        }
        tensors.insert(name.into(), TensorData::f32(&shape, &data));
    }
    drop(held);
    save(&file, &tensors, &BTreeMap::new()).unwrap();
    spoil(&model.join("unet/model.safetensors"));
    let args = ["generate", "--model", path(&model), "--prompt", "a dog", "--out", path(&out)];
    fails(&args, "; the text encoder has 5");
}

#[test]
fn train_sees_weights_and_memory_before_it_reads_images() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("out"));
    toy(&data);
    std::fs::write(data.join("art/up/0.png"), "no image").unwrap();
    let weights = temp.path().join("resnet.safetensors");
    let few = BTreeMap::from([("conv1.weight".to_string(), TensorData::f32(&[64, 3, 7, 7], &[0.5; 9408]))]);
    save(&weights, &few, &BTreeMap::new()).unwrap();
    let common = ["train", "--data", path(&data), "--out", path(&out), "--test-domain", "sketch"];
    let tiny = ["--arch", "resnet18", "--size", "16", "--batch", "4"];
    fails(
        &[&common[..], &tiny, &["--weights", path(&weights)]].concat(),
        "resnet.safetensors: no tensor bn1.",
    );
    fails(&[&common[..], &tiny, &["--memory", "1"]].concat(), "and --memory allows 1 MiB");
    fails(&[&common[..], &tiny].concat(), "art/up/0.png: not a readable image");
}

#[test]
fn run_sees_that_every_stage_can_begin_before_the_first() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let with = |change: &str| {
        vec!["run".into(), change.to_string(), "--quick".into(), format!("--out={}", path(&out))]
    };
    for (change, says) in [
        ("score.clip=no/clip", "no/clip"),
        ("images.model=no/model", "no/model: no such file or folder"),
        ("train.weights=no/weights.safetensors", "no/weights.safetensors: cannot open"),
        ("prompts.llm=nobody", "[prompts] llm: must be template"),
        ("test_domain=nowhere", "nowhere"),
    ] {
        // The folder is free for the next configuration.
        let args = with(change);
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), says);
        assert!(!out.join("prompts.jsonl").exists(), "{change}");
    }
}

#[test]
fn preprocessing_is_read_where_transformers_writes_it() {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::from(temp.path());
    let write = |file: &str, text: &str| std::fs::write(temp.path().join(file), text).unwrap();
    let image =
        |value: f32| kaleid::data::image::Rgb { width: 8, height: 8, data: vec![(255.0 * value) as u8; 192] };
    let first = || Preprocess::open(&folder).unwrap().pixels(&image(1.0))[0];
    assert!((first() - (1.0 - 0.48145466) / 0.26862954).abs() < 1e-6, "OpenAI's without a file");
    let keys = r#""image_mean": [0.5, 0.5, 0.5], "image_std": [STD, STD, STD], "size": {"shortest_edge": 8},
        "crop_size": {"height": 8, "width": 8}, "do_resize": null"#;
    write("preprocessor_config.json", &format!("{{{}}}", keys.replace("STD", "0.25")));
    assert_eq!(first(), 2.0);
    // Version 5 of transformers puts it inside; an older file beside it is left over.
    let new = format!(
        "{{\"processor_class\": \"CLIPProcessor\", \"image_processor\": {{{}}}}}",
        keys.replace("STD", "0.5")
    );
    write("processor_config.json", &new);
    assert_eq!(first(), 1.0);
    std::fs::remove_file(temp.path().join("preprocessor_config.json")).unwrap();
    assert_eq!(first(), 1.0);
    // One of an older version holds no images' part.
    write("processor_config.json", r#"{"processor_class": "CLIPProcessor"}"#);
    write("preprocessor_config.json", &format!("{{{}}}", keys.replace("STD", "0.25")));
    assert_eq!(first(), 2.0);
}
