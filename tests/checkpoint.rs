//! Reading and writing checkpoints, and the one line that a broken one gives.

use kaleid::data::checkpoint::{Checkpoint, TensorData, save};
use std::collections::BTreeMap;
use std::path::Path;

/// A safetensors file made by hand: header text, then `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn error<T>(result: anyhow::Result<T>) -> String {
    let text = format!("{:#}", result.err().expect("an error"));
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

fn write(folder: &Path, name: &str, tensors: &[(&str, &[usize])]) {
    let tensors: BTreeMap<_, _> = tensors
        .iter()
        .map(|(n, s)| (n.to_string(), TensorData::f32(s, &vec![n.len() as f32; s.iter().product()])))
        .collect();
    save(folder.join(name), &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn what_is_saved_is_read_back_and_equal_bytes_come_of_equal_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let tensors: BTreeMap<_, _> = [
        ("b.weight".to_string(), TensorData::f32(&[2, 3], &[1.0, -2.0, 3.5, 0.0, 1e-20, 7.0])),
        ("a.half".to_string(), TensorData::f16(&[3], &[0.5, -1.5, 1e-3])),
        ("scalar".to_string(), TensorData::f32(&[], &[2.6592])),
    ]
    .into();
    let metadata: BTreeMap<_, _> = (0..5).map(|i| (format!("key{i}"), format!("value {i}"))).collect();
    let path = dir.path().join("deep/model.safetensors");
    save(&path, &tensors, &metadata).unwrap();
    let first = std::fs::read(&path).unwrap();
    save(&path, &tensors, &metadata).unwrap();
    assert_eq!(first, std::fs::read(&path).unwrap());
    safetensors::SafeTensors::deserialize(&first).unwrap();

    for checkpoint in [Checkpoint::open(&path).unwrap(), Checkpoint::from_bytes("inside", first).unwrap()] {
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a.half", "b.weight", "scalar"]);
        assert_eq!(checkpoint.shape("b.weight"), Some(&[2, 3][..]));
        assert_eq!(checkpoint.f32("b.weight", &[2, 3]).unwrap(), [1.0, -2.0, 3.5, 0.0, 1e-20, 7.0]);
        assert_eq!(checkpoint.f32("b.weight", &[2, 3, 1, 1]).unwrap().len(), 6);
        assert_eq!(checkpoint.f32("a.half", &[3]).unwrap(), [0.5, -1.5, half::f16::from_f32(1e-3).to_f32()]);
        assert_eq!(checkpoint.f32("scalar", &[]).unwrap(), [2.6592]);
        let rows = checkpoint.rows_f32("b.weight", &[1, 0, 1], &[2, 3]).unwrap();
        assert_eq!(rows, [0.0, 1e-20, 7.0, 1.0, -2.0, 3.5, 0.0, 1e-20, 7.0]);
        assert!(error(checkpoint.rows_f32("b.weight", &[2], &[2, 3])).contains("2 rows, asked for row 2"));
    }
}

#[test]
fn folders() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    assert!(error(Checkpoint::open(folder)).contains("no weights (*.safetensors"));
    std::fs::write(folder.join("pytorch_model.bin"), b"").unwrap();
    assert!(error(Checkpoint::open(folder)).contains("pytorch_model.bin: an empty file: download it again"));
    std::fs::remove_file(folder.join("pytorch_model.bin")).unwrap();
    write(folder, "x-1.safetensors", &[("one", &[1])]);
    assert!(Checkpoint::open(folder).unwrap().contains("one"));
    write(folder, "x-2.safetensors", &[("second", &[2])]);
    let several = error(Checkpoint::open(folder));
    assert!(several.contains("(x-1.safetensors, x-2.safetensors): move all away but the one"), "{several}");
    let index = folder.join("model.safetensors.index.json");
    let list = |text: &str| std::fs::write(&index, format!(r#"{{"weight_map": {text}}}"#)).unwrap();
    list(r#"{"one": "x-1.safetensors", "second": "x-2.safetensors"}"#);
    let both = Checkpoint::open(folder).unwrap();
    assert_eq!(both.f32("second", &[2]).unwrap(), [6.0, 6.0]);
    let renamed = both.rename(|n| n.strip_prefix("sec").map(str::to_string));
    assert_eq!(renamed.names().collect::<Vec<_>>(), ["ond"]);
    list(r#"{"one": "x-1.safetensors", "third": "x-2.safetensors"}"#);
    assert!(error(Checkpoint::open(folder)).contains("third is in none of the files"));
    list(r#"{"one": "x-3.safetensors"}"#);
    assert!(error(Checkpoint::open(folder)).contains("x-3.safetensors: cannot open"));
    list(r#"{"one": "../x-1.safetensors"}"#);
    assert!(error(Checkpoint::open(folder)).contains("not the name of a file in this folder"));
    write(folder, "x-2.safetensors", &[("one", &[1]), ("second", &[2])]);
    list(r#"{"one": "x-1.safetensors", "second": "x-2.safetensors"}"#);
    assert!(error(Checkpoint::open(folder)).contains("x-2.safetensors: one is in "));
    list("3");
    assert!(error(Checkpoint::open(folder)).contains("no weight_map"));
    write(folder, "model.fp16.safetensors", &[("half", &[1])]);
    write(folder, "model.safetensors", &[("whole", &[1])]);
    assert_eq!(Checkpoint::open(folder).unwrap().names().collect::<Vec<_>>(), ["whole"]);
}

#[test]
fn broken_files_say_what_and_where() {
    let of = |bytes: Vec<u8>| Checkpoint::from_bytes("w.safetensors", bytes);
    let whole = r#"{"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    assert!(of(file(whole, 16)).is_ok());
    // The same tensor again, as `name` and at other bytes.
    let two = |name: &str, offsets: &str| {
        let again = whole.replace("a.weight", name).replace("[0,16]", offsets);
        format!("{},{}", &whole[..whole.len() - 1], &again[1..])
    };
    assert!(of(file(&two("b", "[16,32]"), 32)).is_ok());
    for broken in [
        vec![1, 2, 3],
        file(whole, 15),
        file(whole, 17),
        file(whole, 16)[..30].to_vec(),
        u64::MAX.to_le_bytes().to_vec(),
        file("NaN", 0),
        file(&whole.replace("[2,2]", "[2,NaN]"), 16),
        file(&whole.replace("[2,2]", "[2,-2]"), 16),
        file(&whole.replace("[2,2]", "[2,3]"), 16),
        file(&whole.replace("[0,16]", "[16,0]"), 16),
        file(&whole.replace("[2,2]", "[4294967296,4294967296]"), 16),
        file(&whole.replace("F32", "F99"), 16),
        file(&whole.replace("[0,16]", "[0,-16]"), 16),
        file(&whole.replace("[0,16]", "[16,32]"), 32),
        file(&whole.replace("[0,16]", "[0,18446744073709551615]"), 16),
        file("[]", 0),
        file(&two("b", "[8,24]"), 24),
        file(&two("b", "[0,16]"), 16),
        file(&two("b", "[20,36]"), 36),
        file(&two("b", "[16,32]"), 24),
        file(&two("a.weight", "[0,16]"), 16),
        file(&two("a.weight", "[16,32]"), 32),
        [&(1u64 << 40).to_le_bytes()[..], &[b' '; 100]].concat(),
        [&(-8i64).to_le_bytes()[..], &[b' '; 100]].concat(),
    ] {
        let text = error(of(broken));
        let whats = ["not a whole safetensors file (", "its header is none of safetensors"];
        assert!(whats.iter().any(|what| text.starts_with(&format!("w.safetensors: {what}"))), "{text}");
    }
    for (bytes, what) in [
        (vec![], "an empty file: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(), "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>".to_vec(), "a web page, not the file"),
        // Upstream refuses it as well; another download would be the same.
        (file(&whole.replacen('{', r#"{"__metadata__":{"epoch":3},"#, 1), 16), "expected a string"),
    ] {
        let text = error(of(bytes));
        assert!(text.starts_with("w.safetensors: ") && text.contains(what), "{text}");
        assert!(!text.contains("download it again") || what.contains("download"), "{text}");
    }
    let ints = of(file(&whole.replace("F32", "I32"), 16)).unwrap();
    assert_eq!(ints.u32s("a.weight").unwrap(), [0; 4]);
    let wrong = error(ints.f32("a.weight", &[2, 2]));
    assert_eq!(wrong, "w.safetensors: a.weight holds I32, expected F32, F16, BF16 or F64");
    let floats = of(file(whole, 16)).unwrap();
    assert_eq!(error(floats.u32s("a.weight")), "w.safetensors: a.weight holds F32, expected I32 or I64");
    let shape = error(floats.f32("a.weight", &[4]));
    assert_eq!(shape, "w.safetensors: a.weight has shape [2, 2], expected [4]");
    assert_eq!(error(floats.f32("b.weight", &[4])), "w.safetensors: no tensor b.weight");
    let near = error(floats.f32("x.a.bias", &[4]));
    assert_eq!(near, "w.safetensors: no tensor x.a.bias (it has a.weight)");
    let absent = error(Checkpoint::open("no/such/model.safetensors"));
    assert!(absent.starts_with("no/such/model.safetensors: cannot open the weights"), "{absent}");
}

#[test]
fn shards_of_a_variant_are_found_in_both_spellings() {
    let index = r#"{"weight_map": {"a": "model.fp16-00001-of-00002.safetensors", "b": "model.fp16-00002-of-00002.safetensors"}}"#;
    for other in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.safetensors.index.fp16.json"), index).unwrap();
        for (part, tensor) in ["00001", "00002"].into_iter().zip(["a", "b"]) {
            let name = match other {
                false => format!("model.fp16-{part}-of-00002.safetensors"),
                true => format!("model-{part}-of-00002.fp16.safetensors"),
            };
            write(dir.path(), &name, &[(tensor, &[1])]);
        }
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    }
}

#[test]
fn every_float_type_is_read() {
    let header = r#"{"b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},
        "h":{"dtype":"F16","shape":[1],"data_offsets":[2,4]},"d":{"dtype":"F64","shape":[1],"data_offsets":[4,12]}}"#;
    let mut bytes = file(header, 0);
    bytes.extend(half::bf16::from_f32(-3.0).to_le_bytes());
    bytes.extend(half::f16::from_f32(0.25).to_le_bytes());
    bytes.extend(1.5f64.to_le_bytes());
    let checkpoint = Checkpoint::from_bytes("w", bytes).unwrap();
    let read = |name| checkpoint.f32(name, &[1]).unwrap()[0];
    assert_eq!([read("b"), read("h"), read("d")], [-3.0, 0.25, 1.5]);
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (bad, says) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let path = dir.path().join("w.safetensors");
        let tensors = BTreeMap::from([("a".to_string(), TensorData::f32(&[3], &[1.0, bad, 0.0]))]);
        save(&path, &tensors, &BTreeMap::new()).unwrap();
        let text = error(Checkpoint::open(&path).unwrap().f32("a", &[3]));
        assert!(text.contains(&format!("w.safetensors: a holds {says} at place 1")), "{text}");
    }
}

#[test]
fn damage_is_an_error_or_other_numbers_but_never_a_panic() {
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"I64","shape":[2],"data_offsets":[16,32]},"c":{"dtype":"F16","shape":[1,3],"data_offsets":[32,38]}}"#;
    let whole = file(header, 38);
    let key = kaleid::data::rng::Key::new(1, 0, "damage");
    for i in 0..20_000 {
        let mut bytes = whole.clone();
        for j in 0..1 + key.below(4 * i, 3) {
            let at = key.below(4 * (i + 20_000) + j, (8 + header.len()) as u32) as usize;
            // Digits most of the time: other damage is mostly no JSON.
            bytes[at] = match key.below(4 * (i + 40_000) + j, 4) {
                0 => key.below(4 * (i + 60_000) + j, 256) as u8,
                n => b'0' + (n as u8 * 7 + at as u8) % 10,
            };
        }
        if i % 8 == 0 {
            bytes.truncate(key.below(4 * i + 3, bytes.len() as u32) as usize);
        }
        let Ok(checkpoint) = Checkpoint::from_bytes("damaged", bytes) else { continue };
        let names: Vec<String> = checkpoint.names().map(str::to_string).collect();
        for name in names {
            let _ =
                (checkpoint.tensor(&name), checkpoint.u32s(&name), checkpoint.rows_f32(&name, &[1], &[2, 2]));
        }
    }
}
