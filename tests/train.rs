//! Training: cut runs. (Errors: tests/errors.rs.)

mod common;

use common::toy;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn kaleid(root: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
    command.arg("train").arg("--data").arg(root).arg("--out").arg(out);
    command.args(["--arch", "resnet18", "--width", "4", "--size", "16", "--stem", "3", "1"]);
    command.args(["--batch", "4", "--lr", "0.003"]).args(more);
    command
}

fn error(output: Output) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    text.lines().rfind(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{text}")).to_string()
}

/// The rows of results.jsonl without what a clock or a place says.
fn results(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    let row = |line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        for time in ["step_time", "data_time"] {
            row.as_object_mut().unwrap().remove(time);
        }
        row["args"].as_object_mut().unwrap().remove("output_dir");
        row
    };
    text.lines().map(row).collect()
}

/// Trains twice, once in the folder `whole` and once in `cut`, where a signal comes when there is `file`, before it is resumed.
fn whole_and_cut(root: &Path, [whole, cut]: [&Path; 2], more: &[&str], file: &str, signal: &str) {
    let mut child = kaleid(root, cut, more).spawn().unwrap();
    let start = Instant::now();
    while !cut.join(file).exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    child.wait().unwrap();
    assert!(cut.join("checkpoint.safetensors").exists(), "there is nothing to resume");
    assert!(!cut.join("done").exists(), "the run was over before it was killed");
    for out in [whole, cut] {
        let output = kaleid(root, out, more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read_to_string(out.join("done")).unwrap(), "done");
    }
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [root, whole, cut] = ["toy", "whole", "cut"].map(|n| dir.path().join(n));
    toy(&root);
    let more = [
        "--test-domain",
        "sketch",
        "--steps",
        "41",
        "--checkpoint-freq",
        "10",
        "--seed",
        "3",
        "--log-every",
        "7",
    ];
    whole_and_cut(&root, [&whole, &cut], &more, "checkpoint.safetensors", "-KILL");
    let model = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(model(&whole) == model(&cut));
    assert_eq!(results(&whole), results(&cut));
    let curves = |out: &Path| std::fs::read_to_string(out.join("curves.svg")).unwrap();
    assert!(curves(&whole).contains("env0_out_acc") && curves(&whole) == curves(&cut));
    // Rows at the results and, in between, every seven steps.
    let metrics = |out: &Path| {
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let row = |line| {
            let row: Value = serde_json::from_str(line).unwrap();
            (row["step"].as_u64().unwrap(), row["loss"].as_f64().unwrap())
        };
        text.lines().map(row).collect::<Vec<_>>()
    };
    assert_eq!(metrics(&whole), metrics(&cut));
    let steps: Vec<u64> = metrics(&whole).iter().map(|row| row.0).collect();
    assert_eq!(steps, [0, 6, 10, 13, 20, 27, 30, 34, 40]);

    let rows = results(&whole);
    assert_eq!(rows.iter().map(|r| r["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 10, 20, 30, 40]);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
    assert!(number(&rows[4], "loss") < 0.5 * number(&rows[0], "loss"), "{rows:?}");
    assert!(number(&rows[4], "env2_in_acc") > 0.9 && number(&rows[4], "env0_out_acc") > 0.7, "{}", rows[4]);
    for file in ["out.txt", "err.txt", "train.json"] {
        assert!(whole.join(file).exists(), "{file}");
    }
    // Finished: read, not run again. Another command may not have the folder.
    assert!(kaleid(&root, &whole, &more).output().unwrap().status.success());
    let other = kaleid(&root, &whole, &["--test-domain", "photo"]).output().unwrap();
    assert!(
        error(other).contains("whole: holds another run (checkpoint_freq 10, not 300): choose another --out")
    );
}

#[test]
fn swad_averages_the_window_that_the_validation_loss_chooses_and_can_be_cut() {
    let dir = tempfile::tempdir().unwrap();
    let [root, whole, cut] = ["toy", "whole", "cut"].map(|n| dir.path().join(n));
    toy(&root);
    let more = ["--test-domain", "sketch", "--steps", "81", "--checkpoint-freq", "4", "--swad"];
    whole_and_cut(&root, [&whole, &cut], &more, "metrics.jsonl", "-INT");
    let model = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(model(&whole) == model(&cut));
    assert_eq!(results(&whole), results(&cut));
    let rows = results(&whole);
    assert_eq!(rows.len(), 1, "results are those of the average, at the end");

    // The window by hand.
    let text = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let losses: Vec<(u64, f64)> = text
        .lines()
        .filter_map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            Some((row["step"].as_u64()?, row["validation_loss"].as_f64()?))
        })
        .collect();
    assert_eq!(losses.iter().map(|l| l.0).collect::<Vec<_>>(), (0..=80).step_by(4).collect::<Vec<_>>());
    let start = (2..losses.len()).find(|&i| losses[i - 2].1 <= losses[i - 1].1.min(losses[i].1));
    let start = start.unwrap_or_else(|| panic!("the loss falls to the end: {losses:?}")) - 2;
    let threshold = 1.3 * losses[start..start + 3].iter().map(|l| l.1).sum::<f64>() / 3.0;
    let above = |i: &usize| losses[i - 5..=*i].iter().all(|l| l.1 > threshold);
    let end = (start + 6..losses.len()).find(above).map_or(losses.len() - 1, |i| i - 6);
    assert_eq!([&rows[0]["swad_start"], &rows[0]["swad_end"]], [losses[start].0, losses[end].0]);

    let refused = |more: &[&str]| error(kaleid(&root, &dir.path().join("no"), more).output().unwrap());
    assert!(
        refused(&["--test-domain", "photo", "--swad", "--algorithm", "ERMPlusPlus"])
            .contains("--swad and ERMPlusPlus both average the weights")
    );
    assert!(refused(&["--test-domain", "photo", "--swad", "--checkpoint-freq", "0"]).contains("neither"));
}

#[test]
fn pretrained_weights_are_the_featurizers_and_what_an_algorithm_adds_starts_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("toy");
    toy(&root);
    let train = |out: &Path, more: &[&str]| {
        let common = ["--test-domain", "sketch", "--steps", "2", "--checkpoint-freq", "0"];
        let output = kaleid(&root, out, &[&common[..], more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let first = dir.path().join("first");
    train(&first, &[]);
    let weights = first.join("model.safetensors");
    for algorithm in ["SagNet", "SelfReg", "CDANN", "Fish"] {
        let out = dir.path().join(algorithm);
        train(&out, &["--algorithm", algorithm, "--weights", weights.to_str().unwrap()]);
    }
}

#[test]
fn generated_images_count_as_often_as_they_are_said_to() {
    let dir = tempfile::tempdir().unwrap();
    let [root, made] = ["toy", "made"].map(|n| dir.path().join(n));
    toy(&root);
    // New domains: the same pictures under other names.
    toy(&made);
    for domain in std::fs::read_dir(&made).unwrap() {
        let path = domain.unwrap().path();
        let name = format!("new {}", path.file_name().unwrap().to_str().unwrap());
        std::fs::rename(&path, made.join(name)).unwrap();
    }
    let train = |name: &str, variant: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let usual =
            ["--test-domain", "sketch", "--steps", "3", "--checkpoint-freq", "0", "--variant", variant];
        let mut command = kaleid(&root, &out, &usual);
        let output = command.arg("--extra").arg(&made).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (results(&out)[0]["loss"].as_f64().unwrap(), std::fs::read(out.join("model.safetensors")).unwrap())
    };
    let usual = train("usual", "d", &[]);
    assert!(train("once", "d", &["--synthetic-weight", "1"]) == usual);
    let twice = train("twice", "d", &["--synthetic-weight", "2"]);
    let never = train("never", "d", &["--synthetic-weight", "0"]);
    assert!(never.0 > 0.0 && never.0 < usual.0 && usual.0 < twice.0, "{}, {}, {}", never.0, usual.0, twice.0);
    // Where nothing counts, there is nothing to learn.
    assert_eq!(train("nothing", "d-only", &["--synthetic-weight", "0"]).0, 0.0);
    let settings = std::fs::read_to_string(dir.path().join("twice/results.jsonl")).unwrap();
    assert!(settings.contains(r#""synthetic_weight": 2.0"#), "{settings}");
    let out = dir.path().join("wrong");
    let wrong = kaleid(&root, &out, &["--test-domain", "sketch", "--synthetic-weight=-1"]).output().unwrap();
    assert!(error(wrong).contains("--synthetic-weight"), "a negative weight");
}
