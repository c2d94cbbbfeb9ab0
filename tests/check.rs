//! `kaleid data check` on small trees.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn check(args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kaleid")).args(["data", "check"]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A picture of its own for every file name.
fn paint(root: &Path, file: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let seed = md5::compute(file).0;
    image::RgbImage::from_fn(4, 4, |x, y| image::Rgb([seed[(x + 4 * y) as usize]; 3])).save(path).unwrap();
}

#[test]
fn a_whole_data_set_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["art/cat/1.png", "art/cat/2.png", "art/dog/1.jpg", "photo/cat/1.png", "photo/dog/x/1.png"] {
        paint(dir.path(), file);
    }
    std::fs::write(dir.path().join("README.txt"), "notes").unwrap();
    let output = check(&[dir.path()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<String> = text(&output.stdout).lines().skip(1).map(str::to_string).collect();
    assert_eq!(
        lines,
        ["          art   photo", "cat         2       1", "dog         1       1", "all         3       2"]
    );
    let json: Value = serde_json::from_slice(&check(&[Path::new("--json"), dir.path()]).stdout).unwrap();
    assert_eq!(json["domains"]["art"]["classes"]["cat"], 2);
    assert_eq!((&json["dataset"], &json["problems"]), (&Value::Null, &Value::Array(vec![])));
}

#[test]
fn what_is_wrong_is_one_line_each() {
    let dir = tempfile::tempdir().unwrap();
    let [root, extra] = ["PACS", "images"].map(|n| dir.path().join(n));
    for domain in ["art_painting", "cartoon", "photo"] {
        for class in ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"] {
            paint(&root, &format!("{domain}/{class}/1.png"));
        }
    }
    paint(&root, ".cache/dog/1.png");
    paint(&root, "lost.png");
    paint(&root, "photo/lost.png");
    paint(&root, "sketches/cat/1.png");
    std::fs::create_dir(root.join("photo/cat")).unwrap();
    std::fs::create_dir_all(root.join("photo/__MACOSX")).unwrap();
    std::fs::copy(root.join("photo/dog/1.png"), root.join("cartoon/dog/copy.png")).unwrap();
    std::fs::write(root.join("cartoon/house/bad.jpg"), "no image").unwrap();
    paint(&extra, "neon/dog/new.png");
    paint(&extra, "neon/cow/new.png");
    std::fs::copy(root.join("photo/horse/1.png"), extra.join("neon/dog/leaked.png")).unwrap();

    let output = check(&[&root, Path::new("--extra"), &extra]);
    assert_eq!(output.status.code(), Some(2));
    let out = text(&output.stdout);
    for says in [
        ".cache: DomainBed takes this folder for a domain; delete it",
        "photo/__MACOSX: torchvision takes this folder for a class; delete it",
        "PACS/lost.png: an image outside of DOMAIN/CLASS is used by nothing",
        "photo/lost.png: an image outside of CLASS is used by nothing",
        "photo/cat: no images in this class folder",
        "sketches: PACS has no such domain; it has art_painting, cartoon, photo, sketch",
        "PACS: the domain sketch of PACS is missing",
        "photo: 7 images; PACS has 1670 here: splits will not be DomainBed's",
        "photo: 8 classes; PACS has 7",
        "sketches: the class dog of other domains is missing",
        "bad.jpg: not a readable image",
        "copy.png and ",
        "the same picture in two domains",
        "leaked.png: the same picture as the original ",
        "neon/cow: the data set has no class cow",
    ] {
        assert!(out.lines().any(|l| l.starts_with("wrong: ") && l.contains(says)), "no {says:?} in\n{out}");
    }
    let wrong = out.lines().filter(|l| l.starts_with("wrong: ")).count();
    let error = text(&output.stderr);
    assert!(error.ends_with(&format!("PACS: {wrong} things are wrong\n")), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_one_line() {
    let output = check(&[Path::new("/nowhere/at/all")]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
}
