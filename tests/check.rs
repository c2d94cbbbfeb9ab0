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

/// The lines that `data check` prints on a tree, and its exit code.
fn lines(root: &Path) -> (Vec<String>, i32) {
    let output = check(&[root]);
    (text(&output.stdout).lines().map(str::to_string).collect(), output.status.code().unwrap())
}

/// Two domains of two classes.
fn tree(root: &Path) {
    for file in ["art/cat/1.png", "art/dog/1.png", "photo/cat/1.png", "photo/dog/1.png"] {
        paint(root, file);
    }
}

#[track_caller]
fn says(root: &Path, what: &[&str], wrong: bool) {
    let (lines, code) = lines(root);
    for what in what {
        assert!(lines.iter().any(|l| l.contains(what)), "no {what:?} in {lines:#?}");
    }
    assert_eq!(code, if wrong { 2 } else { 0 }, "{lines:#?}");
}

fn train(root: &Path) -> String {
    let out = root.with_extension("out");
    let output = Command::new(env!("CARGO_BIN_EXE_kaleid"))
        .args([
            "train",
            "--test-domain",
            "photo",
            "--arch",
            "resnet18",
            "--width",
            "4",
            "--size",
            "16",
            "--batch",
            "2",
            "--steps",
            "1",
        ])
        .arg("--data")
        .arg(root)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    text(&output.stderr)
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_or_in_circles_are_named_and_train_refuses_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
    tree(&root);
    link("/moved/away.jpg", "art/cat/link.jpg");
    says(&root, &["wrong: ", "art/cat/link.jpg: a link that leads nowhere"], true);
    assert!(train(&root).contains("error: ") && train(&root).contains("link.jpg: a link that leads nowhere"));
    std::fs::remove_file(root.join("art/cat/link.jpg")).unwrap();
    link("/store/cow", "art/cow");
    says(&root, &["art/cow: a link that leads nowhere"], true);
    assert!(train(&root).contains("art/cow: a link that leads nowhere"), "{}", train(&root));
    std::fs::remove_file(root.join("art/cow")).unwrap();
    link("..", "art/cat/round");
    says(&root, &["art/cat/round: a link that leads in a circle"], true);
    assert!(train(&root).contains("art/cat/round: a link that leads in a circle"));
    // One that leads somewhere is followed.
    std::fs::remove_file(root.join("art/cat/round")).unwrap();
    std::fs::rename(root.join("photo/dog"), dir.path().join("dogs")).unwrap();
    link("../../dogs", "photo/dog");
    says(&root, &["dog         1       1"], false);
}

#[test]
fn files_that_are_not_read_are_counted_with_their_endings() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let picture = std::fs::read(dir.path().join("art/cat/1.png")).unwrap();
    for name in ["a.gif", "b.jfif", "c", "e.png.crdownload"] {
        std::fs::write(dir.path().join("art/cat").join(name), &picture).unwrap();
    }
    std::fs::write(dir.path().join("art/cat/d.avif"), b"\0\0\0\x20ftypavif\0\0\0\0").unwrap();
    let all = "art/cat: 5 files not read (.avif, .crdownload, .gif, .jfif, no ending), but pictures";
    says(dir.path(), &[all, "cat         1       1"], true);
    let other = tempfile::tempdir().unwrap();
    tree(other.path());
    std::fs::write(other.path().join("art/cat/notes.txt"), "notes").unwrap();
    says(other.path(), &["note: ", "art/cat: one file not read (.txt)"], false);
}

#[test]
fn what_is_no_whole_image_is_named_and_what_is_read_otherwise_noted() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let cat = dir.path().join("art/cat");
    let jpeg = include_bytes!("data/images/progressive.jpg");
    std::fs::write(cat.join("cut.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 492265168\n";
    std::fs::write(cat.join("pointer.jpg"), pointer).unwrap();
    std::fs::write(cat.join("._1.png"), [0, 5, 0x16, 7, 0, 2, 0, 0]).unwrap();
    std::fs::write(cat.join("lies.png"), jpeg).unwrap();
    let wrong = [
        "cut.jpg: not a readable image; replace or delete it: the file is cut short",
        "a Git LFS pointer",
        "AppleDouble",
    ];
    says(dir.path(), &wrong, true);
    says(dir.path(), &["note: ", "lies.png: of another format than its name says"], true);
    assert!(train(dir.path()).contains("not a readable image"));
}

#[test]
fn splits_and_levels_too_many_are_not_taken_for_classes() {
    let dir = tempfile::tempdir().unwrap();
    for domain in ["art", "photo"] {
        for part in ["train", "val", "test"] {
            for class in ["cat", "dog"] {
                paint(dir.path(), &format!("{domain}/{part}/{class}/1.png"));
            }
        }
    }
    says(dir.path(), &["art: its folders test, train, val are parts of a split, not classes"], true);
    assert!(train(dir.path()).contains("parts of a split, not classes"));
    let other = tempfile::tempdir().unwrap();
    for domain in ["art", "photo"] {
        for class in ["cat", "dog"] {
            paint(other.path(), &format!("kfold/{domain}/{class}/1.png"));
        }
    }
    says(
        other.path(),
        &["kfold: each of its class folders holds the folders cat, dog and no image", "is the root"],
        true,
    );
}

#[test]
fn one_picture_with_two_labels_is_wrong_and_a_copy_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let copy = |from: &str, to: &str| std::fs::copy(dir.path().join(from), dir.path().join(to)).unwrap();
    copy("art/dog/1.png", "art/dog/2.png");
    says(dir.path(), &["note: ", "2.png: the same picture twice"], false);
    copy("art/dog/1.png", "art/cat/2.png");
    says(dir.path(), &["wrong: ", "the same picture with two labels"], true);
}

#[test]
fn names_that_differ_in_spelling_only_are_said_to() {
    for (a, b, how) in [
        ("caf\u{e9}", "cafe\u{301}", "how its accented letters are composed"),
        ("dog", "Dog", "only in capital letters"),
        ("Alarm Clock", "Alarm_Clock", "only in blanks, _ and -"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        paint(dir.path(), &format!("art/{a}/1.png"));
        paint(dir.path(), &format!("photo/{b}/1.png"));
        says(dir.path(), &[how], true);
        assert!(lines(dir.path()).0.iter().all(|l| !l.contains("is missing")), "{a}");
        assert!(train(dir.path()).contains(how), "{a}: {}", train(dir.path()));
    }
}

#[test]
fn many_lines_of_a_kind_are_summed_up_and_names_printed_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    for i in 0..12 {
        std::fs::write(dir.path().join(format!("art/cat/bad{i:02}.png")), "no image").unwrap();
    }
    says(dir.path(), &["bad07.png", "wrong: unreadable: 12 in all, 4 more than these"], true);
    assert!(!lines(dir.path()).0.iter().any(|l| l.contains("bad08.png")));
    let json: Value = serde_json::from_slice(&check(&[Path::new("--json"), dir.path()]).stdout).unwrap();
    assert_eq!((&json["kinds"]["unreadable"], json["problems"].as_array().unwrap().len()), (&12.into(), 12));
    #[cfg(unix)]
    {
        let other = tempfile::tempdir().unwrap();
        tree(other.path());
        std::fs::write(other.path().join("art/cat/two\nlines\u{1b}[31m.png"), "no image").unwrap();
        says(other.path(), &["two\\nlines\\u{1b}[31m.png: not a readable image"], true);
    }
}

#[test]
fn a_name_without_a_word_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["art/0/1.png", "art/n01440764/1.png", "photo/0/1.png", "photo/n01440764/1.png"] {
        paint(dir.path(), file);
    }
    says(dir.path(), &["note: \"0\" holds no word", "\"n01440764\" holds no word"], false);
}
