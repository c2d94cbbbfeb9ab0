//! Textual inversion: words whose vectors are in a file.

mod common;

use common::write_model;
use kaleid::core::{DType, Gpu, GpuOptions};
use kaleid::data::checkpoint::{TensorData, save};
use kaleid::data::folder::Folder;
use kaleid::data::synthetic;
use kaleid::engines::clip::{PromptReader, TextEncoder};
use kaleid::engines::model::Model;
use kaleid::engines::options::Options;
use kaleid::models::inversion::Inversion;
use std::path::{Path, PathBuf};

fn write(path: &Path, name: &str, shape: &[usize], values: &[f32]) {
    save(path, &[(name.to_string(), TensorData::f32(shape, values))].into(), &Default::default()).unwrap();
}

#[test]
fn a_word_that_means_what_known_tokens_mean_gives_their_context() {
    let (gpu, temp) = (Gpu::open(&GpuOptions::from_env()).unwrap(), tempfile::tempdir().unwrap());
    let (model, file) = (temp.path().join("model"), temp.path().join("Mine.safetensors"));
    write_model(&gpu, &model);
    let folder = Folder::from(model.as_path());
    let open = |embedding: Vec<PathBuf>| Model::open(&folder, &Options { embedding, ..Options::default() });
    let plain = open(vec![]).unwrap();
    // The vectors of "zebra", which is several tokens here.
    let reader = PromptReader::of(&plain).unwrap();
    let (ids, empty) = (reader.ids("zebra").unwrap().concat(), reader.ids("").unwrap().concat());
    let zebra: Vec<u32> = ids[1..].iter().copied().take_while(|id| *id != empty[1]).collect();
    assert!(zebra.len() > 1, "{ids:?}");
    let table = synthetic::tensor("embeddings.token_embedding.weight", &[600, 16]);
    let rows: Vec<f32> = zebra.iter().flat_map(|&id| table[16 * id as usize..][..16].to_vec()).collect();
    write(&file, "emb_params", &[zebra.len(), 16], &rows);

    let context = |model: &Model, prompt: &str| {
        TextEncoder::of(&gpu, model, DType::F32).unwrap().encode(&[prompt], 1).unwrap()
    };
    let with = open(vec![file.clone()]).unwrap();
    let want = context(&plain, "a zebra, in ink");
    assert_eq!(context(&with, "a mine, in ink"), want);
    assert_eq!(context(&with, "a MINE, in ink"), want, "in any case");
    assert_eq!(context(&with, "a zebra, in ink"), want, "what was known stays");
    assert_ne!(context(&with, "a mined, in ink"), context(&with, "a zebrad, in ink"), "not in another word");
    // diffusers' files name their token.
    write(&file, "<my-zebra>", &[zebra.len(), 16], &rows);
    let with = open(vec![file.clone()]).unwrap();
    assert_eq!(context(&with, "a <my-zebra>, in ink"), want);
    assert_eq!(context(&with, "a mine, in ink"), want);

    write(&file, "emb_params", &[1024], &[0.0; 1024]);
    let error = format!("{:#}", open(vec![file]).err().expect("an error"));
    assert!(
        error.contains("Mine.safetensors: its vectors have 1024 numbers, for Stable Diffusion 2; this text encoder takes 16"),
        "{error}"
    );
}

#[test]
fn files_of_all_programs() {
    // A pickle of AUTOMATIC1111's.
    let word = Inversion::open(Path::new("tests/data/weights/embedding.pt"), 4).unwrap();
    assert_eq!(word.names, ["embedding"]);
    assert_eq!(word.vectors, [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("learned_embeds.safetensors");
    write(&file, "<cat-toy>", &[4], &[1.0; 4]);
    let word = Inversion::open(&file, 4).unwrap();
    assert_eq!((word.names.len(), word.names[0].as_str(), word.vectors.len()), (2, "<cat-toy>", 1));
    let error = |path: &Path| format!("{:#}", Inversion::open(path, 4).expect_err("an error"));
    assert!(
        error(Path::new("tests/data/lora/kohya.safetensors"))
            .contains("no textual inversion: it holds 15 tensors")
    );
    write(&file, "a", &[2, 2, 4], &[1.0; 16]);
    assert!(error(&file).contains("of shape [2, 2, 4] is no textual inversion"));
}
