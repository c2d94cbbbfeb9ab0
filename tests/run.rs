//! `kaleid run` on its demo, in the quick form: every file is made, and a run that is killed again and again ends with the
//! bytes of one that was left alone. And what the commands around it say when something is wrong.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const KALEID: &str = env!("CARGO_BIN_EXE_kaleid");

fn kaleid(args: &[&str]) -> Output {
    Command::new(KALEID).args(args).output().unwrap()
}

/// The line on standard error of a command that must fail as a user's mistake.
fn refusal(args: &[&str]) -> String {
    let out = kaleid(args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{args:?} says {said}");
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?} says {said}");
    lines[0].to_string()
}

/// Files below a folder, with their contents. Of a run that is going on, some may vanish meanwhile.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for path in std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())) {
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Files that record times, or where the run lies.
fn records_times(name: &str) -> bool {
    let ends =
        ["stages.json", "report.html", "results.jsonl", "metrics.jsonl", "out.txt", "train.json", ".kaleid"];
    ends.iter().any(|end| name.ends_with(end))
}

#[test]
fn a_demo_that_is_killed_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| dir.path().join(name));
    let args =
        |out: &Path| ["run", "--quick", "--seed", "3", "--out", out.to_str().unwrap()].map(String::from);
    let out = Command::new(KALEID).args(args(&whole)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    // Killed while it paints, while it trains, and soon after it began to train again.
    let reached = |name: &str, count: usize| {
        let is = |path: &String| path.contains(name) && !path.ends_with(".tmp");
        cut.exists() && files(&cut).keys().filter(|path| is(path)).count() >= count
    };
    for (name, count) in [("images/", 8), ("diversity.json", 1), ("train/ERM-qd-0/train.json", 1)] {
        let mut run = Command::new(KALEID)
            .args(args(&cut))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !reached(name, count) && run.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(300), "no {name}");
            std::thread::sleep(Duration::from_millis(20));
        }
        run.kill().unwrap();
        run.wait().unwrap();
    }
    let out = Command::new(KALEID).args(args(&cut)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let [whole_files, cut_files] = [&whole, &cut].map(|dir| files(dir));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&whole_files), names(&cut_files));
    for (name, bytes) in whole_files.iter().filter(|(name, _)| !records_times(name)) {
        assert!(cut_files[name] == *bytes, "{name} differs");
    }

    // What a run leaves behind.
    let json = |name: &str| -> Value { serde_json::from_slice(&whole_files[name]).unwrap() };
    let diversity = json("diversity.json");
    assert_eq!(diversity["points"].as_array().unwrap().len(), 10);
    assert!(diversity["optimum"]["s"].as_f64().unwrap() > 0.0);
    let painted = whole_files.keys().filter(|n| n.starts_with("images/") && n.ends_with(".png")).count();
    let prompts = String::from_utf8_lossy(&whole_files["prompts.jsonl"]).lines().count();
    assert_eq!(painted, prompts);
    assert!(!whole_files.keys().any(|n| n.starts_with("images/openmoji")), "the test domain is painted");
    for variant in ["o", "qd"] {
        assert_eq!(whole_files[&format!("train/ERM-{variant}-0/done")], b"done");
        assert!(whole_files.contains_key(&format!("train/ERM-{variant}-0/model.safetensors")));
    }
    let report = String::from_utf8_lossy(&whole_files["report.html"]).into_owned();
    for part in ["data:image/png;base64,", "<svg", "ERM", "openmoji", "standard error", "total_batch"] {
        assert!(report.contains(part), "no {part} in the report");
    }
    for place in ["src=\"http", "href=\"http", "url(http"] {
        assert!(!report.contains(place), "the report loads from elsewhere");
    }

    // The same folder is not another run's.
    let said = refusal(&["run", "--quick", "--seed", "4", "--out", cut.to_str().unwrap()]);
    assert!(said.contains("seed = 4") && said.contains("another --out"), "{said}");
}

#[test]
fn a_configuration_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    let out = dir.path().join("out");
    let said = |text: &str| {
        std::fs::write(&file, text).unwrap();
        refusal(&["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()])
    };
    let good = "data = \"d\"\ntest_domain = \"x\"\n[images]\nmodel = \"m\"\n[score]\nclip = \"c\"\n";
    let typo = said(&format!("{good}[train]\nstep = 3\n"));
    assert!(typo.contains("line 8") && typo.contains("`step`"), "{typo}");
    let missing = said("test_domain = \"x\"\n");
    assert!(missing.contains("`data`"), "{missing}");
    let none = said(&format!("{good}[train]\nseeds = 0\n"));
    assert!(none.contains("seeds"), "{none}");
    assert!(said("data = ").contains("line 1"));
    assert!(said(good).contains('d'), "a data set that is not there");
    assert!(refusal(&["run", "nowhere.toml"]).contains("nowhere.toml"));
}

#[test]
fn a_report_of_no_run_and_a_score_of_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert!(refusal(&["report", path]).contains("run.toml"));
    let score = |generated: &str| {
        let flags = ["score", "--data", "weights/demo/data", "--hold-out", "openmoji", "--clip", "builtin"];
        refusal(&[&flags[..], &["--generated", generated, "--out", path]].concat())
    };
    assert!(score(path).contains("no generated images"));
    assert!(score("nowhere").contains("nowhere"));
    let only_new = dir.path().join("images/fluent3d/animal");
    std::fs::create_dir_all(&only_new).unwrap();
    let image = std::fs::read_dir("weights/demo/data/noto/animal").unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&image, only_new.join("0.webp")).unwrap();
    let said = score(dir.path().join("images").to_str().unwrap());
    assert!(said.contains("original domain"), "{said}");
}
