//! LoRAs of every spelling and algorithm, merged into a few layers: `tests/data/lora/make.py` made them, and what they make by the
//! functions of LyCORIS and by einsum.

mod common;

use common::write_model;
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::checkpoint::{Checkpoint, TensorData, save};
use kaleid::data::folder::Folder;
use kaleid::engines::options::Options;
use kaleid::models::lora::merge;
use kaleid::paint::generate::{self, Work};
use kaleid::paint::picture::Picture;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new("tests/data/lora").join(name)
}

fn base() -> [Checkpoint; 2] {
    ["unet.safetensors", "text.safetensors"].map(|name| Checkpoint::open(file(name)).unwrap())
}

#[test]
fn every_spelling_and_algorithm_is_merged_as_others_do_it() {
    let want = Checkpoint::open(file("want.safetensors")).unwrap();
    for (name, layers) in [
        ("kohya.safetensors", 5),
        ("ldm.safetensors", 3),
        ("peft.safetensors", 5),
        ("adapter", 2),
        ("old.safetensors", 3),
        ("tucker.safetensors", 1),
        ("loha.safetensors", 2),
        ("lokr.safetensors", 3),
        ("dora.safetensors", 3),
        ("full.safetensors", 2),
    ] {
        let [mut unet, mut text] = base();
        let merged = merge(&file(name), 0.7, &mut unet, &mut text).unwrap();
        assert_eq!((merged.applied, merged.total), (layers, layers), "{name}: {merged:?}");
        let [whole_unet, whole_text] = base();
        let mut changed = 0;
        for (merged, whole) in [(&unet, &whole_unet), (&text, &whole_text)] {
            for tensor in whole.names() {
                let (shape, before) = whole.tensor(tensor).unwrap();
                let got = merged.f32(tensor, &shape).unwrap();
                let place = format!("{name}/{tensor}");
                let want =
                    if want.contains(&place) { want.tensor(&place).unwrap().1 } else { before.clone() };
                changed += usize::from(got != before);
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{place}: {got} for {want}");
                }
            }
        }
        let wanted = want.names().filter(|n| n.starts_with(&format!("{name}/"))).count();
        assert_eq!(changed, wanted, "{name}");
    }
}

#[test]
fn one_for_another_model_is_an_error_that_says_for_which() {
    let error = |name: &str| {
        let [mut unet, mut text] = base();
        format!("{:#}", merge(&file(name), 1.0, &mut unet, &mut text).expect_err(name))
    };
    let other = error("other.safetensors");
    assert!(
        other.contains("other.safetensors: lora_unet_down_blocks_0_") && other.contains("[6, 8]"),
        "{other}"
    );
    assert!(other.ends_with("it seems to be for Stable Diffusion 2"), "{other}");
    assert!(error("unet.safetensors").contains("is no tensor of a LoRA"));

    let dir = tempfile::tempdir().unwrap();
    let write = |names: &[&str]| {
        let tensors = names.iter().map(|name| (name.to_string(), TensorData::f32(&[2, 2], &[0.0; 4])));
        let path = dir.path().join("l.safetensors");
        save(&path, &tensors.collect(), &BTreeMap::new()).unwrap();
        let [mut unet, mut text] = base();
        format!("{:#}", merge(&path, 1.0, &mut unet, &mut text).expect_err("an error"))
    };
    let none = write(&["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"]);
    assert!(none.contains("none of its 1 layers is one of the model (lora_te2_"), "{none}");
    assert!(none.contains("Stable Diffusion XL"), "{none}");
    assert!(write(&["lora_unet_conv_in.oft_blocks"]).contains("is of OFT, which is not supported"));
    let alone = write(&["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight"]);
    assert!(alone.contains("an up without a down"), "{alone}");
}

#[test]
fn a_lora_for_a_domain_paints_the_images_of_that_domain_only() {
    let (gpu, temp) = (Gpu::open(&GpuOptions::from_env()).unwrap(), tempfile::tempdir().unwrap());
    let (model, lora) = (temp.path().join("model"), temp.path().join("l.safetensors"));
    write_model(&gpu, &model);
    let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2";
    let numbers = |n: usize| (0..n).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect::<Vec<_>>();
    let tensors = [
        (format!("{module}.lora_down.weight"), TensorData::f32(&[2, 128], &numbers(256))),
        (format!("{module}.lora_up.weight"), TensorData::f32(&[32, 2], &numbers(64))),
    ];
    save(&lora, &tensors.into(), &BTreeMap::new()).unwrap();
    let picture = |domain: &str| Picture {
        prompt: "a dog".into(),
        file_name: format!("{domain}/0.png"),
        seed: Some(3),
        domain: Some(domain.into()),
        class: None,
        init: None,
        described: None,
    };
    let pictures = [picture("ink"), picture("oil")];
    let paint = |name: &str, loras: &str| {
        let out = temp.path().join(name);
        let options: Options = toml::from_str(&format!("model = \"m\"\nsteps = 3\n{loras}")).unwrap();
        generate::run(&gpu, &Folder::from(model.as_path()), &pictures, &out, &options, 0, Work::default())?;
        let pixels = |p: &Picture| image::open(out.join(&p.file_name)).unwrap().to_rgb8().into_raw();
        let metadata = std::fs::read_to_string(out.join("metadata.jsonl")).unwrap();
        anyhow::Ok(([pixels(&pictures[0]), pixels(&pictures[1])], metadata))
    };
    let path = lora.display();
    let ([ink, oil], _) = paint("plain", "").unwrap();
    assert_eq!(ink, oil, "the same prompt and seed");
    let ([with, without], metadata) = paint("table", &format!("[lora]\nink = \"{path}:8\"")).unwrap();
    assert!(with != ink && without == oil);
    let lines: Vec<&str> = metadata.lines().collect();
    assert!(lines[0].contains(r#""lora":["l.safetensors:8"]"#) && !lines[1].contains("lora"), "{metadata}");
    let ([both, also], _) = paint("list", &format!("lora = [\"{path}:8\"]")).unwrap();
    assert!(both == with && also == with);
    let ([none, _], _) = paint("none", &format!("lora = [\"{path}:0\"]")).unwrap();
    assert_eq!(none, ink, "a weight of nothing changes nothing");
    let error = paint("typo", &format!("[lora]\ninc = \"{path}\"")).unwrap_err().to_string();
    assert!(error.contains("--lora inc=") && error.contains("no image is of this domain"), "{error}");
}
