//! Files of weights as other programs write them: `tests/data/weights/make.py` made these by torch and by gguf, whose values
//! `want.json` holds.

use kaleid::data::checkpoint::{Checkpoint, TensorData, save};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new("tests/data/weights").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(file(name)).unwrap()
}

fn error(name: &str) -> String {
    let text = format!("{:#}", Checkpoint::open(file(name)).err().expect("an error"));
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

/// Sees that a file has the tensors that `want.json` lists, with these values.
fn holds_what_is_wanted(name: &str) {
    let want: Value = serde_json::from_slice(&std::fs::read(file("want.json")).unwrap()).unwrap();
    let checkpoint = open(name);
    let want = want[name].as_object().unwrap();
    assert_eq!(checkpoint.names().count(), want.len(), "{name}");
    for (tensor, want) in want {
        let values: Vec<f32> = serde_json::from_value(want["values"].clone()).unwrap();
        let shape: Vec<usize> = serde_json::from_value(want["shape"].clone()).unwrap();
        assert_eq!(checkpoint.shape(tensor), Some(&shape[..]), "{name}: {tensor}");
        // Whole numbers are no weights.
        let is_count = tensor == "ids" || tensor.ends_with("num_batches_tracked");
        let got = match is_count {
            true => checkpoint.u32s(tensor).unwrap().into_iter().map(|n| n as f32).collect(),
            false => checkpoint.f32(tensor, &shape).unwrap(),
        };
        assert_eq!(got, values, "{name}: {tensor}");
    }
}

#[test]
fn pickles_of_torch_in_a_zip() {
    holds_what_is_wanted("state.pt");
    // A view that is not contiguous, by rows.
    let turned = open("state.pt").rows_f32("turned", &[5, 0], &[6, 4]).unwrap();
    assert_eq!(turned, [5.0, 11.0, 17.0, 23.0, 0.0, 6.0, 12.0, 18.0]);
}

#[test]
fn pickles_of_torch_before_version_1_6() {
    holds_what_is_wanted("legacy.pt");
}

#[test]
fn a_module_that_was_saved_whole_is_read_without_making_it() {
    holds_what_is_wanted("module.pt");
    assert!(open("module.pt").remarks()[0].contains("1 of elsewhere.Net"));
}

#[test]
fn what_a_training_saves_is_its_weights_and_the_rest_is_named() {
    let checkpoint = open("lightning.ckpt");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["model.a", "model.b"]);
    assert_eq!(checkpoint.metadata()["global_step"], "875000");
    let remarks = checkpoint.remarks().join("; ");
    assert!(
        remarks
            .contains("state_dict is read, beside it callbacks, optimizer_states, hyper_parameters is not"),
        "{remarks}"
    );
    assert!(remarks.contains("1 of argparse.Namespace"), "{remarks}");
}

#[test]
fn embeddings_and_single_tensors() {
    let embedding = open("embedding.pt");
    assert_eq!(embedding.names().collect::<Vec<_>>(), ["string_to_param.*"]);
    assert_eq!(
        embedding.tensor("string_to_param.*").unwrap(),
        (vec![2, 4], (0..8).map(|i| i as f32).collect())
    );
    assert_eq!(open("tensor.pt").f32("tensor", &[2, 3]).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn a_network_is_found_below_whatever_wraps_it() {
    let wanted = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight"];
    let dir = tempfile::tempdir().unwrap();
    for prefix in ["", "module.", "featurizer.network.", "_orig_mod.module.backbone."] {
        // As DomainBed saves ERM: the same network a second time, and a classifier.
        let names = wanted.iter().flat_map(|n| [format!("{prefix}{n}"), format!("network.0.network.{n}")]);
        let tensors = names.chain(["classifier.weight".into(), format!("{prefix}fc.bias")]);
        let tensors: BTreeMap<String, TensorData> =
            tensors.map(|name| (name.clone(), TensorData::f32(&[1], &[name.len() as f32]))).collect();
        let file = dir.path().join("w.safetensors");
        save(&file, &tensors, &BTreeMap::new()).unwrap();
        let (found, below) = Checkpoint::open(&file).unwrap().below_prefix(&wanted);
        let short = if prefix.len() > 18 { "network.0.network." } else { prefix };
        assert_eq!(below, short);
        assert_eq!(found.f32("conv1.weight", &[1]).unwrap(), [(short.len() + 12) as f32]);
    }
}

#[test]
fn nothing_that_a_pickle_names_is_called() {
    let evil = open("evil.pt");
    assert_eq!(evil.f32("weight", &[2]).unwrap(), [1.0, 1.0]);
    assert!(evil.remarks()[0].contains("1 of posix.system"), "{:?}", evil.remarks());
    assert!(!Path::new("evil_was_here").exists() && !file("evil_was_here").exists());
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    assert!(error("script.pt").contains("script.pt: a TorchScript archive"));
    assert!(error("sparse.pt").contains("weight: its kind (sparse_tensor) is not supported"));
}

#[test]
fn every_block_of_a_gguf_is_what_ggml_says() {
    holds_what_is_wanted("blocks.gguf");
    let header = open("blocks.gguf").header().clone();
    assert_eq!(header["general.architecture"], "llama");
    assert_eq!(header["llama.block_count"], 2);
    assert_eq!(header["tokenizer.ggml.tokens"][1], "ä");
    assert_eq!(header["tokenizer.ggml.scores"][1], -1.5);
    // A row that begins with a block of its own.
    let want = open("blocks.gguf").f32("Q4_K", &[2, 256]).unwrap();
    assert_eq!(open("blocks.gguf").rows_f32("Q4_K", &[1], &[2, 256]).unwrap(), want[256..]);
}

#[test]
fn a_file_is_known_by_its_content_and_a_download_that_was_cut_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["state.pt", "legacy.pt", "blocks.gguf"] {
        let bytes = std::fs::read(file(name)).unwrap();
        let other = dir.path().join("model.safetensors");
        std::fs::write(&other, &bytes).unwrap();
        assert!(Checkpoint::open(&other).is_ok(), "{name} by another name");
        for cut in [bytes.len() - 1, bytes.len() / 2, 40] {
            std::fs::write(&other, &bytes[..cut]).unwrap();
            let error = format!("{:#}", Checkpoint::open(&other).err().expect("an error"));
            assert!(error.contains("download it again"), "{name}, {cut} bytes: {error}");
        }
    }
}
