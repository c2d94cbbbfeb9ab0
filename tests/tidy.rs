//! Conventions that police themselves: every op is tested, benched and documented; every shader says what it computes and is
//! reached by a bench case, which is how `tests/portable.rs` and `kaleid bench --dump` see it.

use kaleid::bench;
use kaleid::core::Class;
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
fn every_op_has_a_test_row_a_bench_row_and_a_doc_comment() {
    let ops = ops();
    assert!(ops.len() > 40, "the ops are found: {ops:?}");
    let all = |folder| files(folder).into_iter().map(|f| f.1).collect::<String>();
    let (tests, cases) = (all("tests/ops"), all("src/bench"));
    let lacking = |text: &str| {
        let names = ops.iter().map(|o| &o.0).filter(|name| !text.contains(&format!("g.{name}(")));
        names.cloned().collect::<Vec<_>>()
    };
    assert_eq!(lacking(&tests), [""; 0], "ops without a row in tests/ops");
    assert_eq!(lacking(&cases), [""; 0], "ops without a row in src/bench/cases.rs");
    let silent: Vec<_> = ops.iter().filter(|o| !o.1).map(|o| &o.0).collect();
    assert_eq!(silent, [""; 0], "ops without a doc comment");
}

#[test]
fn every_shader_has_a_header_and_a_bench_case() {
    let sources: Vec<String> = Class::ALL.into_iter().flat_map(|c| bench::sources(c).into_values()).collect();
    let mut unreached = vec![];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for (path, text) in files("shaders") {
        let name = path.strip_prefix(&root).unwrap().display().to_string().replace('\\', "/");
        let header: String = text.lines().take_while(|l| l.starts_with("//")).collect();
        assert!(!header.is_empty(), "{name} does not begin with a comment that says what it computes");
        if text.contains("@compute") {
            assert!(
                header.contains('=') || header.contains("->"),
                "{name}: the header gives no formula: {header}"
            );
        }
        if !sources.iter().any(|s| s.contains(&format!("// ---- {name}\n"))) {
            unreached.push(name);
        }
    }
    assert_eq!(unreached, [""; 0], "shaders in no kernel of any bench case");
}

#[test]
fn bench_cases_have_names_of_their_own() {
    let mut names: Vec<String> = bench::all().into_iter().map(|c| c.name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
