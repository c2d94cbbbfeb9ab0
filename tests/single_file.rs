//! Stable Diffusion in one file: the folder and the file of one model give the same image to the bit. The names are those of
//! `tests/data/weights/ldm_names.json`, which diffusers' converter agreed to.

mod common;

use common::{Configs, write_model_of};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::checkpoint::{self, Checkpoint, TensorData};
use kaleid::data::folder::Folder;
use kaleid::engines::model::Model;
use kaleid::engines::options::{Options, PredictionType};
use kaleid::paint::generate::{self, Work};
use kaleid::paint::picture::Picture;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| Gpu::open(&GpuOptions::from_env()).unwrap())
}

const VAE: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [32, 64, 96, 96], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
const TEXT: &str = r#"{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1,
    "hidden_act": "ACT"}"#;
const SCHEDULER: &str = r#"{"_class_name": "CLASS", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false, "skip_prk_steps": true,
    "steps_offset": 1, "prediction_type": "KIND"}"#;

type Tensors = BTreeMap<String, TensorData>;

/// A folder of one of the two families, and its tensors under the names of single files.
fn model(folder: &Path, second: bool) -> Tensors {
    let unet = match second {
        true => {
            r#"{"sample_size": 96, "block_out_channels": [64, 64, 128, 128], "attention_head_dim": [1, 1, 2, 2],
                "cross_attention_dim": 64, "use_linear_projection": true}"#
        }
        false => r#"{"sample_size": 64, "block_out_channels": [32, 64, 96, 96], "cross_attention_dim": 64}"#,
    };
    let (act, class, kind) = match second {
        true => ("gelu", "DDIMScheduler", "v_prediction"),
        false => ("quick_gelu", "PNDMScheduler", "epsilon"),
    };
    let tokenizer = folder.join("a tokenizer");
    let put = |file: &str, bytes: &[u8]| kaleid::data::write_atomic(tokenizer.join(file), bytes).unwrap();
    put("merges.txt", &std::fs::read("weights/clip_tokenizer/merges.txt").unwrap());
    let pad = if second { "!" } else { "<|endoftext|>" };
    put("special_tokens_map.json", format!(r#"{{"pad_token": "{pad}"}}"#).as_bytes());
    let configs = Configs {
        unet: &unet.replace("{\"s", r#"{"_class_name": "UNet2DConditionModel", "s"#),
        vae: VAE,
        text: &TEXT.replace("ACT", act),
        scheduler: &SCHEDULER.replace("CLASS", class).replace("KIND", kind),
        tokenizer: &tokenizer,
    };
    write_model_of(gpu(), folder, &configs);
    let names: BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_slice(&std::fs::read("tests/data/weights/ldm_names.json").unwrap()).unwrap();
    let mut all = Tensors::new();
    for (part, prefix) in [("unet", "model.diffusion_model."), ("vae", "first_stage_model.")] {
        let checkpoint = Checkpoint::open(folder.join(part)).unwrap();
        let mut left = checkpoint.names().count();
        for [ldm, name] in names[part].iter().filter(|[_, name]| checkpoint.contains(name)) {
            let (shape, data) = checkpoint.tensor(name).unwrap();
            all.insert(format!("{prefix}{ldm}"), TensorData::f32(&shape, &data));
            left -= 1;
        }
        assert_eq!(left, 0, "tensors of the {part} without another name");
    }
    all.extend(text(&Checkpoint::open(folder.join("text_encoder")).unwrap(), second));
    all
}

/// The text encoder under the names of single files: Hugging Face's, or OpenCLIP's, with a layer more that is not for us.
fn text(checkpoint: &Checkpoint, second: bool) -> Tensors {
    let tensor = |name: &str| checkpoint.tensor(name).unwrap();
    let mut all = Tensors::new();
    if !second {
        for name in checkpoint.names() {
            let (shape, data) = tensor(name);
            let name = format!("cond_stage_model.transformer.text_model.{name}");
            all.insert(name, TensorData::f32(&shape, &data));
        }
        return all;
    }
    let mut put = |name: String, (shape, data): (Vec<usize>, Vec<f32>)| {
        all.insert(format!("cond_stage_model.model.{name}"), TensorData::f32(&shape, &data));
    };
    put("positional_embedding".into(), tensor("embeddings.position_embedding.weight"));
    put("token_embedding.weight".into(), tensor("embeddings.token_embedding.weight"));
    put("text_projection".into(), (vec![64, 64], vec![0.0; 64 * 64]));
    for kind in ["weight", "bias"] {
        put(format!("ln_final.{kind}"), tensor(&format!("final_layer_norm.{kind}")));
        for layer in 0..2 {
            let at = format!("transformer.resblocks.{layer}");
            let from = |name: &str| tensor(&format!("encoder.layers.{layer}.{name}.{kind}"));
            for (open_clip, name) in [
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("attn.out_proj", "self_attn.out_proj"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ] {
                put(format!("{at}.{open_clip}.{kind}"), from(name));
            }
            let three = ["q", "k", "v"].map(|name| from(&format!("self_attn.{name}_proj")));
            let mut shape = three[0].0.clone();
            shape[0] *= 3;
            let data = three.into_iter().flat_map(|(_, data)| data).collect();
            put(format!("{at}.attn.in_proj_{kind}"), (shape, data));
        }
    }
    all
}

fn save(file: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) {
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    checkpoint::save(file, tensors, &metadata).unwrap();
}

/// The pixels that a model paints for a prompt.
fn paint(model: &Path, out: &Path, options: &Options) -> Vec<u8> {
    let picture = Picture {
        prompt: "a drawing of a lighthouse, naïve art".into(),
        file_name: "a.png".into(),
        seed: Some(5),
        domain: None,
        class: None,
        init: None,
        described: None,
    };
    let options = Options { steps: 2, size: Some([64, 64]), ..options.clone() };
    generate::run(gpu(), &Folder::from(model), &[picture], out, &options, 0, Work::default()).unwrap();
    image::open(out.join("a.png")).unwrap().to_rgb8().into_raw()
}

fn error(model: &Path, options: &Options) -> String {
    let error = Model::open(&Folder::from(model), options).err().expect("an error");
    format!("{error:#}")
}

#[test]
fn the_folder_and_the_single_file_of_one_model_give_the_same_image() {
    let temp = tempfile::tempdir().unwrap();
    for second in [false, true] {
        let at = |name: &str| temp.path().join(format!("{second}/{name}"));
        let (folder, file) = (at("folder"), at("model.safetensors"));
        let mut tensors = model(&folder, second);
        let own = Options::default();
        let want = paint(&folder, &at("a"), &own);
        // What trainings leave in such files, and says nothing.
        tensors.insert("model_ema.decay".into(), TensorData::f32(&[], &[0.9999]));
        tensors.insert("alphas_cumprod".into(), TensorData::f32(&[1000], &[0.5; 1000]));
        save(&file, &tensors, &[("modelspec.prediction_type", if second { "v" } else { "epsilon" })]);
        assert_eq!(paint(&file, &at("b"), &own), want, "second family: {second}");
        let opened = Model::open(&Folder::from(file.as_path()), &own).unwrap();
        assert_eq!(opened.size(None).unwrap(), if second { [768; 2] } else { [512; 2] });

        // The UNet alone, and the rest from elsewhere.
        tensors.retain(|name, _| name.starts_with("model.diffusion_model."));
        save(&file, &tensors, &[]);
        assert!(error(&file, &own).contains("no autoencoder in it: give one with --vae"));
        let with = Options { vae: Some(folder.clone()), ..own.clone() };
        assert!(error(&file, &with).contains("no text encoder in it: give one with --text-encoder"));
        let with = Options { text_encoder: Some(folder.clone()), ..with };
        let with = Options { prediction_type: second.then_some(PredictionType::VPrediction), ..with };
        assert_eq!(paint(&file, &at("c"), &with), want, "second family: {second}");
    }
}

#[test]
fn parts_in_files_of_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, other) = (temp.path().join("folder"), temp.path().join("other.safetensors"));
    let tensors = model(&folder, false);
    let own = Options::default();
    let want = paint(&folder, &temp.path().join("a"), &own);
    // An autoencoder as it is given out: no prefix.
    let bare = |prefix: &str| -> Tensors {
        let rest =
            |(name, t): (&String, &TensorData)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()));
        tensors.iter().filter_map(rest).collect()
    };
    save(&other, &bare("first_stage_model."), &[]);
    let with = Options { vae: Some(other.clone()), ..own.clone() };
    assert_eq!(paint(&folder, &temp.path().join("b"), &with), want);
    assert!(error(&other, &own).contains("an autoencoder alone: --vae takes it"));
    let with = Options { vae: Some(folder.join("vae/model.safetensors")), ..own.clone() };
    assert_eq!(paint(&folder, &temp.path().join("c"), &with), want);
    save(&other, &bare("cond_stage_model.transformer."), &[]);
    let with = Options { text_encoder: Some(other.clone()), ..own.clone() };
    assert_eq!(paint(&folder, &temp.path().join("d"), &with), want);
    assert!(
        error(&folder, &Options { vae: Some(other), ..own })
            .contains("other.safetensors: no autoencoder in it")
    );
}

#[test]
fn a_file_of_another_model_is_refused_by_its_name() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("x.safetensors");
    for (tensor, shape, says) in [
        ("model.diffusion_model.input_blocks.0.0.weight", &[32, 9, 3, 3][..], "a model for inpainting"),
        (
            "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
            &[4],
            "Stable Diffusion XL",
        ),
        (
            "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",
            &[4],
            "Stable Diffusion 3",
        ),
        ("double_blocks.0.img_attn.norm.key_norm.scale", &[4], "Flux"),
        ("control_model.time_embed.0.weight", &[4, 4], "a ControlNet"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", &[4, 4], "a LoRA: --lora takes it"),
        ("emb_params", &[2, 768], "a textual inversion"),
        ("fc.weight", &[4, 4], "no UNet of Stable Diffusion in it"),
    ] {
        let numbers = vec![0.0; shape.iter().product()];
        save(&file, &[(tensor.to_string(), TensorData::f32(shape, &numbers))].into(), &[]);
        let error = error(&file, &Options::default());
        assert!(error.contains("x.safetensors: ") && error.contains(says), "{says} not in: {error}");
    }
    assert!(error(&temp.path().join("none"), &Options::default()).contains("no such file or folder"));
}
