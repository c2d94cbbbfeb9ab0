//! Painted images as other programs take them.

use kaleid::data::parquet;
use kaleid::paint::export::{self, Form};
use serde_json::json;
use std::io::Read;
use std::path::Path;

/// A folder as `kaleid generate` leaves it; the pixels do not matter.
fn painted(folder: &Path) {
    let mut lines = String::new();
    for (i, (domain, class)) in [("ink", "cat"), ("ink", "dog"), ("photo.old", "dog")].into_iter().enumerate()
    {
        let name = format!("{domain}/{class}/0000{i}.png");
        let file = folder.join(&name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(4, 3, image::Rgb([40 * i as u8, 9, 200])).save(file).unwrap();
        let row = json!({"file_name": name, "domain": domain, "class": class, "prompt": format!("a {class}, naïve"),
            "seed": i, "steps": 30, "model": "sd"});
        lines += &(row.to_string() + "\n");
    }
    std::fs::write(folder.join("metadata.jsonl"), lines).unwrap();
}

#[test]
fn images_are_handed_on_in_three_forms_with_a_card() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    painted(&images);
    std::fs::write(dir.path().join("run.toml"), "data = \"PACS\"\n").unwrap();
    let out = |name: &str| dir.path().join(name);
    let original = |name: &str| std::fs::read(images.join(name)).unwrap();

    // As a run's folder and as that of its images.
    assert_eq!(export::run(dir.path(), Form::Imagefolder, &out("folder")).unwrap(), 3);
    let copy = std::fs::read(out("folder/data/train/photo.old/dog/00002.png")).unwrap();
    assert_eq!(copy, original("photo.old/dog/00002.png"));
    let lines = |folder: &Path| std::fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
    assert_eq!(lines(&out("folder/data/train")), lines(&images));
    let card = std::fs::read_to_string(out("folder/README.md")).unwrap();
    for part in [
        "3 images",
        "| ink | cat | 1 |",
        "- model: \"sd\"",
        "- seeds: 0 to 2",
        "data = \"PACS\"",
        "None was selected",
    ] {
        assert!(card.contains(part), "no {part} in {card}");
    }

    // Our own reader makes the same files of the table. (`datasets` reads it, too: tried by hand.)
    export::run(&images, Form::Parquet, &out("table")).unwrap();
    let table = out("table/data/train-00000-of-00001.parquet");
    assert_eq!(parquet::unpack(&[table], &out("unpacked"), || Ok(())).unwrap(), 3);
    for (place, name) in [("ink/cat/000000", "ink/cat/00000"), ("ink/dog/000001", "ink/dog/00001")] {
        let read = std::fs::read(out("unpacked").join(format!("{place}.png"))).unwrap();
        assert_eq!(read, original(&format!("{name}.png")));
    }

    export::run(&images, Form::Webdataset, &out("tars")).unwrap();
    let mut tar = tar::Archive::new(std::fs::File::open(out("tars/train-00000-of-00001.tar")).unwrap());
    let mut found = vec![];
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        found.push((entry.path().unwrap().display().to_string(), bytes));
    }
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        ["ink/cat/00000.png", "ink/cat/00000.cls", "ink/cat/00000.json", "ink/dog/00001.png"]
    );
    // The ending begins at the first dot.
    assert_eq!(names[6], "photo_old/dog/00002.png");
    assert_eq!((&found[0].1, &found[4].1[..]), (&original("ink/cat/00000.png"), &b"1"[..]));
}

#[test]
fn what_cannot_be_exported_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let said = |out: &str| {
        let done = export::run(&images, Form::Parquet, &dir.path().join(out));
        format!("{:#}", done.unwrap_err())
    };
    assert!(said("out").contains("no metadata.jsonl"));
    painted(&images);
    assert!(said("images").contains("is there already"));
    std::fs::remove_file(images.join("ink/dog/00001.png")).unwrap();
    assert!(said("out").contains("1 images of metadata.jsonl are not there, such as ink/dog/00001.png"));
    std::fs::write(images.join("metadata.jsonl"), "{\"file_name\": \"../secret.png\"}\n").unwrap();
    assert!(said("out").contains("line 1: file_name \"../secret.png\" is not below the folder"));
    std::fs::write(images.join("metadata.jsonl"), "[]\n").unwrap();
    assert!(said("out").contains("line 1: no painted image"));
    assert!(!dir.path().join("out").exists() && !dir.path().join("out.tmp").exists(), "nothing half-written");
}
