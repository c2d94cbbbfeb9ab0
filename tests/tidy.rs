//! Conventions that police themselves: every op is tested, benched and documented; every shader says what it computes and is
//! reached by a bench case, which is how `tests/portable.rs` and `kaleid bench --dump` see it; files and functions stay short, and
//! rooms use only those below them.

use kaleid::bench;
use kaleid::core::Caps;
use std::path::{Path, PathBuf};

/// All files below a folder of the repository, with their text.
fn files(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() { walk(&entry, found) } else { found.push(entry) }
        }
    }
    let mut found = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    found.sort();
    found.into_iter().map(|f| (f.clone(), std::fs::read_to_string(f).unwrap())).collect()
}

fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    files("src").into_iter().filter(|(path, _)| path.extension() == Some("rs".as_ref()))
}

fn shaders() -> impl Iterator<Item = (PathBuf, String)> {
    files("shaders").into_iter().filter(|(path, _)| path.extension() == Some("wgsl".as_ref()))
}

/// Names of the public ops, and whether each has a doc comment.
fn ops() -> Vec<(String, bool)> {
    let mut ops = vec![];
    for (_, text) in files("src/ops") {
        let (mut in_graph, mut documented) = (false, false);
        for line in text.lines() {
            match line {
                "impl Graph {" => in_graph = true,
                "}" => in_graph = false,
                _ => {}
            }
            if let Some(rest) = line.strip_prefix("    pub fn ").filter(|_| in_graph) {
                ops.push((rest.split('(').next().unwrap().to_string(), documented));
            }
            documented = line.starts_with("    ///") || (documented && line.trim_start().starts_with("#["));
        }
    }
    ops
}

#[test]
fn every_op_has_all_its_steps() {
    let ops = ops();
    assert!(ops.len() > 40, "the ops are found: {ops:?}");
    let all = |folder| files(folder).into_iter().map(|f| f.1).collect::<String>();
    let (tests, cases) = (all("tests/ops"), all("src/bench"));
    let mut missing = vec![];
    for (name, documented) in &ops {
        let called = |text: &str| text.contains(&format!("g.{name}("));
        let mut step = |done: bool, what: &str| {
            if !done {
                missing.push(format!("{name}: {what}"));
            }
        };
        step(*documented, "a doc comment with formula, shapes and what it panics for");
        step(
            called(&tests),
            "a row in tests/ops/: Case::new(..).check(op, reference), and check_second if its gradient has a vjp",
        );
        step(called(&cases), "a row in src/bench/cases.rs, by which tests/portable.rs sees its kernels");
    }
    assert_eq!(missing, [""; 0], "steps of shaders/README.md, \"A new op\", that are missing");
}

#[test]
fn every_shader_has_a_header_and_a_bench_case() {
    let variants: Vec<String> = Caps::kinds()
        .iter()
        .chain(&Caps::kinds_with_coop())
        .flat_map(|(_, caps)| bench::sources(caps).into_values())
        .collect();
    let mut unreached = vec![];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for (path, text) in shaders() {
        let name = path.strip_prefix(&root).unwrap().display().to_string().replace('\\', "/");
        let header: String = text.lines().take_while(|l| l.starts_with("//")).collect();
        assert!(!header.is_empty(), "{name} does not begin with a comment that says what it computes");
        if text.contains("@compute") {
            assert!(
                header.contains('=') || header.contains("->"),
                "{name}: the header gives no formula: {header}"
            );
        }
        if !variants.iter().any(|s| s.contains(&format!("// ---- {name}\n"))) {
            unreached.push(name);
        }
    }
    assert_eq!(unreached, [""; 0], "shaders in no kernel of any bench case: add a row to src/bench/cases.rs");
}

#[test]
fn every_shader_is_in_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let words: Vec<&str> = readme.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for (path, _) in shaders() {
        let own = path.parent() == Some(&root);
        let name = if own { path.file_stem() } else { path.parent().unwrap().file_name() };
        let name = name.unwrap().to_str().unwrap();
        assert!(words.contains(&name), "shaders/README.md has no row for {}", path.display());
    }
}

/// Lines of the longest function of a file, and its name. rustfmt's indents say where one ends.
fn longest_function(text: &str) -> (usize, &str) {
    let lines: Vec<&str> = text.lines().collect();
    let mut longest = (0, "");
    for (i, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let is_fn =
            ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn "].iter().any(|f| code.starts_with(f));
        if is_fn && !line.ends_with('}') {
            let end = format!("{indent}}}");
            let length = 1 + lines[i..].iter().position(|l| *l == end).unwrap_or(0);
            longest = longest.max((length, code));
        }
    }
    longest
}

#[test]
fn files_and_functions_stay_short() {
    for (path, text) in sources() {
        let (lines, path) = (text.lines().count(), path.display());
        assert!(lines <= 450, "{path}: {lines} lines; cut it where the reader would, below 450");
        let (length, function) = longest_function(&text);
        assert!(length <= 90, "{path}: {length} lines of `{function}`; cut it into steps below 90");
    }
}

/// From the ground up; rooms of one floor know nothing of each other.
const FLOORS: [&[&str]; 13] = [
    &["data", "progress", "flags"],
    &["hub"],
    &["core"],
    &["ops"],
    &["nn"],
    &["models", "diffusion", "bench"],
    &["engines"],
    &["domainbed"],
    &["train"],
    &["paint", "sweep", "verify"],
    &["study"],
    &["serve"],
    &["lib", "main", "commands"],
];

#[test]
fn rooms_use_only_those_below_them() {
    let floor = |room: &str| FLOORS.iter().position(|f| f.contains(&room));
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, text) in sources() {
        let room =
            path.strip_prefix(&src).unwrap().components().next().unwrap().as_os_str().to_str().unwrap();
        let room = room.trim_end_matches(".rs");
        let own = floor(room)
            .unwrap_or_else(|| panic!("src/{room} stands on no floor of tests/tidy.rs and src/lib.rs"));
        // Tests may take what they like.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let used = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let fits = used == room || floor(used).is_none_or(|f| f < own);
                assert!(fits, "{}: `{}` looks up from {room} to {used}", path.display(), line.trim());
            }
        }
    }
}

#[test]
fn bench_cases_have_names_of_their_own() {
    let mut names: Vec<String> = bench::all().into_iter().map(|c| c.name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
