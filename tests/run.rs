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
    let ends = [
        "stages.json",
        "job.json",
        "report.html",
        "results.jsonl",
        "metrics.jsonl",
        "out.txt",
        "train.json",
        ".kaleid",
    ];
    ends.iter().any(|end| name.ends_with(end))
}

/// `kaleid run --quick --seed 3` wrote it.
const BEFORE_COMPARE: &str = r#"data = "builtin"
test_domain = "openmoji"
seed = 3
hold_out_concepts = true

[prompts]
llm = "template"
new = 3
domains = []
share = 0.04
include_test_style = false

[images]
model = "builtin"
steps = 6
guidance = 6.0
scheduler = "dpmpp-2m"
negative = ""

[score]
clip = "builtin"
trace = false
unnormalised = false

[train]
algorithms = ["ERM"]
variants = ["o", "qd"]
seeds = 1
preset = "db2024"
fixed = []
arch = "resnet18"
width = 16
stem = [3, 2]
size = 32
steps = 12
average_from = 320
checkpoint_freq = 0
total_batch = 32
plain_validation = true
skip_train_accuracy = true
holdout_fraction = 0.2

[train.hparams]
lr = 0.003
"#;

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
    // Its configuration as it was written before there was [compare] is the same one.
    std::fs::write(cut.join("run.toml"), BEFORE_COMPARE).unwrap();
    let out = Command::new(KALEID).args(args(&cut)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let [whole_files, cut_files] = [&whole, &cut].map(|dir| files(dir));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&whole_files), names(&cut_files));
    let differs = |name: &str| records_times(name) || name == "run.toml";
    for (name, bytes) in whole_files.iter().filter(|(name, _)| !differs(name)) {
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
fn every_domain_is_tested_on_by_networks_that_never_saw_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("each");
    // Real images in another style, of one class.
    let real = dir.path().join("real/photos/animal");
    std::fs::create_dir_all(&real).unwrap();
    let originals = std::fs::read_dir("weights/demo/data/clipart/animal").unwrap();
    for file in originals.map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, real.join(file.file_name().unwrap())).unwrap();
    }
    let real = format!("compare.retrieval={}", dir.path().join("real").display());
    let changes = [
        "test_domains=[\"openmoji\", \"noto\"]",
        "compare.variants=[\"o\", \"q\", \"qd-only\", \"retrieval\"]",
        &real,
        "images.steps=1",
        "prompts.share=0.02",
        "train.steps=2",
        "train.total_batch=7",
    ];
    let run = kaleid(&[&["run", "--quick", "--out", out.to_str().unwrap()], &changes[..]].concat());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let found = files(&out);
    for target in ["openmoji", "noto"] {
        for variant in ["o", "q", "qd-only", "retrieval"] {
            let name = format!("train/{target}/ERM-{variant}-0/train.json");
            let described: Value = serde_json::from_slice(&found[&name]).unwrap();
            let envs = described["environments"].as_array().unwrap();
            assert_eq!(envs.iter().any(|env| env["name"] == "photos"), variant == "retrieval");
            for env in envs {
                let name = env["name"].as_str().unwrap();
                assert_eq!(env["test"], name == target, "{name} for {target}");
                let trained = env["in"].as_array().unwrap();
                let own = trained.iter().filter(|file| file.as_str().unwrap().starts_with(target)).count();
                assert!(name == target || own == 0, "{own} images of {target} are trained on");
                // Images of their styles take the place of originals, which only validate.
                let originals = ["clipart", "noto", "openmoji", "twemoji"].contains(&name) && name != target;
                assert_eq!(trained.is_empty(), originals && variant == "qd-only", "{name}: {variant}");
                assert!(!originals || !env["out"].as_array().unwrap().is_empty());
            }
        }
    }
    let said = String::from_utf8(run.stdout).unwrap();
    let header = said.lines().find(|line| line.contains("average")).unwrap();
    let names: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(names, ["algorithm", "trained", "on", "openmoji", "noto", "average", "worst"]);
    assert!(said.contains("validation (") && said.contains("would choose"), "{said}");
    let report = String::from_utf8_lossy(&found["report.html"]);
    assert!(report.contains("By test domain") && report.contains("qd-only"));
}

#[test]
fn images_are_chosen_painted_again_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("chosen");
    // Nothing passes, so that every image is painted again and dropped at last; but for what a person keeps.
    let changes = [
        "compare.variants=[\"q\", \"qd-all\", \"plain\", \"img2img\"]",
        "images.steps=1",
        "images.size=[32, 32]",
        "images.saved_size=[32, 32]",
        "images.strength=1.0",
        "prompts.share=0.02",
        "train.steps=2",
        "train.total_batch=7",
        "select.action=regenerate",
        "select.tries=1",
        "select.class_margin=1.9",
        "select.right=true",
    ];
    let args = [&["run", "--quick", "--out", out.to_str().unwrap()], &changes[..]].concat();
    let first = kaleid(&args);
    let said = String::from_utf8(first.stderr).unwrap();
    // Then there is nothing to measure.
    assert!(said.contains("no generated images") || said.contains("no images in the style"), "{said}");
    let metadata = |set: &str| {
        let text = std::fs::read_to_string(out.join(set).join("metadata.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let prompts = std::fs::read_to_string(out.join("prompts.jsonl")).unwrap();
    for set in ["images", "plain", "img2img"] {
        let rows = metadata(set);
        assert_eq!(rows.len(), prompts.lines().count());
        for (row, prompt) in rows.iter().zip(prompts.lines()) {
            let prompt: Value = serde_json::from_str(prompt).unwrap();
            assert_eq!(
                (&row["selection"]["action"], &row["selection"]["tries"]),
                (&"drop".into(), &1.into())
            );
            assert_eq!(row["seed"].as_u64().unwrap(), prompt["seed"].as_u64().unwrap() + 1);
            assert!(row["selection"]["right"].is_boolean());
            let written = row["prompt"] == prompt["prompt"];
            assert_eq!((written, row["init"].is_string()), (set != "plain", set == "img2img"), "{row}");
        }
    }
    // A person keeps what was dropped, but for clothes.
    let mut kept = String::new();
    for set in ["images", "plain", "img2img"] {
        let keep = |row: &Value| {
            serde_json::json!({"file_name": row["file_name"], "verdict": "keep"}).to_string() + "\n"
        };
        kept = metadata(set)
            .iter()
            .filter(|r| !r["file_name"].as_str().unwrap().contains("/clothing/"))
            .map(keep)
            .collect();
        std::fs::write(out.join(set).join("review.jsonl"), &kept).unwrap();
    }
    let second = kaleid(&args);
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let trained = |variant: &str| {
        let file = out.join(format!("train/ERM-{variant}-0/train.json"));
        let described: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let envs = described["environments"].as_array().unwrap().clone();
        let files = envs
            .iter()
            .flat_map(|env| ["in", "out"].map(|half| env[half].as_array().unwrap().clone()))
            .flatten();
        files
            .filter(|f| f.as_str().unwrap().ends_with(".png") && f.as_str().unwrap().contains("/0000"))
            .count()
    };
    let generated = prompts.lines().count();
    let person = kept.lines().count();
    assert_eq!([trained("qd-all"), trained("plain"), trained("img2img")], [generated, person, person]);
    assert!(trained("q") < person);
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("Which images count") && report.contains("dropped: class"));
}

const SMALL: &str = "data = \"d\"\ntest_domain = \"x\"\n[images]\nmodel = \"m\"\n[score]\nclip = \"c\"\n";

#[test]
fn a_configuration_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    let out = dir.path().join("out");
    let said = |text: &str| {
        std::fs::write(&file, text).unwrap();
        refusal(&["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()])
    };
    for (text, says) in [
        (
            &format!("{SMALL}[train]\nstep = 3\n")[..],
            "run.toml, line 8: no key `step`: did you mean `steps`?",
        ),
        (&format!("{SMALL}[trian]\n"), "line 7: no key `trian`: did you mean `train`?"),
        (
            &format!("{SMALL}[train]\nsteps = \"3\"\n"),
            "line 8: invalid type: string \"3\", expected a whole number",
        ),
        (&format!("{SMALL}[train]\nstem = [3]\n"), "--stem takes a kernel and a stride"),
        (&format!("{SMALL}[train]\nwidth = 6\n"), "[train]: --width 6: it must be a multiple of 4"),
        (&format!("{SMALL}[train]\nbatch = 6\ntotal_batch = 9\n"), "--batch and --total-batch: choose one"),
        (&format!("{SMALL}[compare]\nseeds = 0\n"), "[compare] needs at least one of algorithms"),
        (&format!("{SMALL}[train]\nseeds = 0\n"), "[compare] needs at least one of algorithms"),
        (&format!("{SMALL}[compare]\nalgorithms = [\"IRMM\"]\n"), "no algorithm IRMM: did you mean IRM?"),
        ("test_domain = \"x\"\n", "missing field `data`"),
        ("data = \"d\"\ntest_domain = \"x\"\n", "[images] model is missing"),
        ("data = ", "line 1"),
    ] {
        let line = said(text);
        assert!(line.contains(says), "{says} not in: {line}");
    }
    assert!(said(SMALL).contains('d'), "a data set that is not there");
    assert!(refusal(&["run", "nowhere.toml"]).contains("nowhere.toml"));
}

/// What `kaleid run --show-config` prints.
fn shown(args: &[&str]) -> String {
    let out = kaleid(&[&["run", "--show-config"], args].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn single_settings_are_replaced_and_the_configuration_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a=b.toml");
    let file = file.to_str().unwrap();
    std::fs::write(file, SMALL).unwrap();
    // Without a configuration, they change the demo; the others are as they were.
    let demo = shown(&[]);
    assert!(
        demo.contains("\nsteps = 400\n") && demo.contains("\n[compare]\nalgorithms = [\"ERM\"]\n"),
        "{demo}"
    );
    assert_eq!(shown(&["train.steps=50"]), demo.replace("steps = 400", "steps = 50"));
    for (change, line) in [
        ("seed=7", "seed = 7"),
        ("test_domain=sketch", "test_domains = \"sketch\""),
        ("test_domains=each", "test_domains = \"each\""),
        ("test_domains=[\"a\", \"b\"]", "test_domains = [\"a\", \"b\"]"),
        ("test_domain=2020", "test_domains = \"2020\""),
        ("images.model=weights/sd", "model = \"weights/sd\""),
        ("images.model=\"weights/sd\"", "model = \"weights/sd\""),
        ("images.size=[64, 32]", "size = [64, 32]"),
        ("compare.algorithms=[\"ERM\", \"IRM\"]", "algorithms = [\"ERM\", \"IRM\"]"),
        ("train.hparams.weight_decay=0.01", "weight_decay = 0.01"),
        ("train.lr=0.25", "lr = 0.25"),
        ("train.size=28", "arch = \"mnist_cnn\""),
        ("train.hold_out_concepts=true", "hold_out_concepts = true"),
        // Names of before.
        ("train.seeds=9", "seeds = 9"),
        ("train.plain_validation=true", "val_augment = false"),
        ("train.skip_train_accuracy=true", "train_accuracy = false"),
        ("hold_out_concepts=true", "hold_out_concepts = true"),
    ] {
        let text = shown(&[file, change]);
        assert!(text.lines().any(|l| l == line) && !shown(&[file]).contains(line), "{change}: {text}");
        // It is a configuration itself, and the same one.
        let again = dir.path().join("again.toml");
        std::fs::write(&again, &text).unwrap();
        assert_eq!(shown(&[again.to_str().unwrap()]), text);
    }
    // They count more than --quick.
    assert!(shown(&["--quick", "train.steps=50"]).contains("\nsteps = 50\n"));
    for (change, says) in [
        ("train.step=3", "train.step=3: no key `step`: did you mean `steps`?"),
        ("imges.steps=3", "no key `imges`: did you mean `images`?"),
        ("train.steps=many", "invalid type: string \"many\", expected a whole number"),
        ("train.steps=-1", "expected a whole number"),
        ("images.batch=0", "expected a whole number from 1"),
        ("seed.x=3", "invalid type: table, expected a whole number"),
        ("train.preset=db", "unknown variant `db`, expected one of `db2020`"),
        ("compare.seeds=0", "[compare] needs at least one"),
        ("compare.variants=[\"retrieval\"]", "the variant retrieval needs retrieval = \"DIR\""),
    ] {
        let line = refusal(&["run", file, change, "--show-config"]);
        assert!(line.contains(says), "{says} not in: {line}");
    }
    assert!(refusal(&["run", file, "quick"]).contains("quick: give KEY=VALUE, such as train.steps=100"));
}

#[test]
fn a_plan_says_what_a_run_would_do_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let plan = kaleid(&["run", "--plan", "test_domains=single-source", "--out", out.to_str().unwrap()]);
    let said = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.status.success() && !out.exists(), "{said}");
    // 1289 originals in four sets, and three new ones of their mean size, four tenths of each; each of the four alone trains, twice, with five seeds.
    for part in [
        "about 902 of 64x64: 902 left",
        "40 of 400 steps (4 test domains, ERM, on o qd, 5 seeds): 40 left",
        "(predicted)",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let said = refusal(&["run", "--plan", "images.model=nowhere", "--out", out.to_str().unwrap()]);
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn the_papers_configurations_are_whole() {
    for (name, variants) in
        [("pacs", r#"["o", "q", "d", "qd"]"#), ("officehome", r#"["o", "qd"]"#), ("vlcs", r#"["o", "qd"]"#)]
    {
        let text = shown(&[&format!("examples/{name}.toml")]);
        for line in [
            "test_domains = \"each\"",
            "steps = 5001",
            "preset = \"synth\"",
            "share = 0.5",
            &format!("variants = {variants}"),
        ] {
            assert!(text.lines().any(|l| l == line), "{name}: no {line} in {text}");
        }
    }
}

#[test]
fn a_batch_that_few_images_will_not_fill_is_refused_before_they_are_painted() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let few = ["prompts.share=0.02", "train.total_batch=60"];
    let said = refusal(&[&["run", "--quick", "--out", out.to_str().unwrap()], &few[..]].concat());
    let says = ["still to be painted", "domain fluent3d: batch 10 is larger than its", "share"];
    assert!(says.iter().all(|says| said.contains(says)) && !out.join("images").exists(), "{said}");
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
