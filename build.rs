//! Collects `shaders/**/*.wgsl`, the data of `tests/golden/**` and `weights/demo/**` into tables (name, contents), so that the binary
//! needs no files beside it.
use std::path::{Path, PathBuf};

fn main() {
    let mut shaders: Vec<_> = files("shaders").into_iter().filter(|f| f.ends_with(".wgsl")).collect();
    shaders.iter_mut().for_each(|f| f.truncate(f.len() - ".wgsl".len()));
    table("shaders", "str", "shaders", ".wgsl", &shaders);
    // The recorder of the goldens and its README lie beside them.
    let is_data = |f: &String| ["json", "safetensors", "txt"].iter().any(|e| f.ends_with(&format!(".{e}")));
    let goldens: Vec<_> = files("tests/golden").into_iter().filter(is_data).collect();
    table("goldens", "bytes", "tests/golden", "", &goldens);
    table("demo", "bytes", "weights/demo", "", &files("weights/demo"));
}

/// Paths of all files below `folder`, relative to it.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new(folder), &mut found);
    let relative = |f: &PathBuf| f.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/");
    let mut names: Vec<String> = found.iter().map(relative).collect();
    names.sort();
    names
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            walk(&entry, files);
        } else {
            files.push(entry);
        }
    }
}

/// Writes `NAME.rs`: the constant NAME, rows of (path, contents) as text or bytes.
fn table(name: &str, kind: &str, folder: &str, extension: &str, names: &[String]) {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let row = |n: &String| {
        let path = Path::new(&root).join(folder).join(format!("{n}{extension}"));
        format!("({n:?}, include_{kind}!({path:?})),\n")
    };
    let rows: String = names.iter().map(row).collect();
    let (constant, ty) = (name.to_uppercase(), if kind == "str" { "str" } else { "[u8]" });
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap()).join(format!("{name}.rs"));
    std::fs::write(out, format!("const {constant}: &[(&str, &{ty})] = &[\n{rows}];\n")).unwrap();
}
