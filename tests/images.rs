//! The data side of training: what joins, what is left out, and where decoded images lie.

mod common;

use common::toy;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn train(root: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
    command.arg("train").arg("--data").arg(root).arg("--out").arg(out);
    command.args(["--arch", "resnet18", "--width", "4", "--size", "16", "--stem", "3", "1"]);
    command.args(["--batch", "4", "--steps", "2", "--test-domain", "sketch"]);
    command.args(more).output().unwrap()
}

/// Standard error of a run that ends well.
fn succeeds(output: Output) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fn fails(output: Output, says: &str) {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let line = text.lines().find(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(says), "no {says:?} in {line}");
}

/// Names and training parts of train.json's environments.
fn environments(out: &Path) -> Vec<(String, Vec<String>)> {
    let text = std::fs::read(out.join("train.json")).unwrap();
    let described: Value = serde_json::from_slice(&text).unwrap();
    let of = |e: &Value| {
        (e["name"].as_str().unwrap().to_string(), serde_json::from_value(e["in"].clone()).unwrap())
    };
    described["environments"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn unreadable_images_are_named_and_left_out_only_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let [root, out] = ["toy", "out"].map(|n| dir.path().join(n));
    toy(&root);
    std::fs::write(root.join("art/up/3.png"), "no image").unwrap();
    std::fs::write(root.join("photo/down/4.png"), "").unwrap();
    fails(train(&root, &out, &[]), "art/up/3.png: not a readable image; replace or delete it: ");
    fails(
        train(&root, &out, &[]),
        "(and 1 more, which kaleid data check names); --skip-bad leaves such images out",
    );
    let text = succeeds(train(&root, &out, &["--skip-bad"]));
    assert!(text.contains("left out: ") && text.contains("photo/down/4.png"), "{text}");
    assert!(text.contains("2 of 60 images are left out"), "{text}");
    assert_eq!(std::fs::read_to_string(out.join("skipped.txt")).unwrap().lines().count(), 2);
}

#[test]
fn decoded_images_in_a_file_train_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [root, memory, file] = ["toy", "memory", "file"].map(|n| dir.path().join(n));
    toy(&root);
    succeeds(train(&root, &memory, &[]));
    // Room for about ten of sixty images.
    succeeds(train(&root, &file, &["--image-memory", "0.0000075"]));
    let model = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(model(&memory) == model(&file));
    assert!(!file.join("images.cache").exists());
}

#[test]
fn the_tested_style_is_trained_on_only_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let [root, extra, apart, joined] = ["toy", "extra", "apart", "joined"].map(|n| dir.path().join(n));
    toy(&root);
    for domain in ["art", "sketch"] {
        for class in ["up", "down"] {
            let folder = extra.join(domain).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..4 {
                std::fs::copy(
                    root.join("photo").join(class).join(format!("{i}.png")),
                    folder.join(format!("new{i}.png")),
                )
                .unwrap();
            }
        }
    }
    let more = ["--variant", "q", "--extra", extra.to_str().unwrap()];
    succeeds(train(&root, &apart, &more));
    let names = |out: &Path| environments(out).into_iter().map(|e| e.0).collect::<Vec<_>>();
    assert_eq!(names(&apart), ["art", "photo", "sketch"]);
    let new = |files: &[String]| files.iter().filter(|f| f.contains("new")).count();
    let counts: Vec<usize> = environments(&apart).iter().map(|e| new(&e.1)).collect();
    assert_eq!(counts, [8, 0, 0]);
    succeeds(train(&root, &joined, &[&more[..], &["--include-test-style"]].concat()));
    assert_eq!(names(&joined), ["art", "photo", "sketch", "sketch (generated)"]);
}

#[test]
fn classes_of_few_images_are_drawn_as_often_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let [root, even, odd] = ["toy", "even", "odd"].map(|n| dir.path().join(n));
    toy(&root);
    for i in 2..10 {
        std::fs::remove_file(root.join(format!("art/up/{i}.png"))).unwrap();
    }
    let balanced = ["--hparams", r#"{"class_balanced": true, "nonlinear_classifier": true}"#];
    succeeds(train(&root, &even, &balanced));
    // One image of a class, and that one held out for validation: named.
    std::fs::remove_file(root.join("art/up/0.png")).unwrap();
    std::fs::remove_file(root.join("art/up/1.png")).unwrap();
    std::fs::copy(root.join("photo/up/1.png"), root.join("art/up/1.png")).unwrap();
    let text = succeeds(train(&root, &odd, &["--holdout-fraction", "0.5", "--trial-seed", "1"]));
    let trained = environments(&odd)[0].1.iter().any(|f| f.contains("up"));
    assert_eq!(text.contains("warning: domain art has no training images of up"), !trained, "{text}");
}
