//! Collects `shaders/**/*.wgsl` into one table (name without extension, source), so that the binary needs no files beside it.
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=shaders");
    let mut files = Vec::new();
    walk(Path::new("shaders"), &mut files);
    files.sort();
    let rows: String = files
        .iter()
        .map(|f| {
            let name = f.strip_prefix("shaders").unwrap().with_extension("");
            let name = name.to_str().unwrap().replace('\\', "/");
            format!("({name:?}, include_str!({:?})),\n", f.canonicalize().unwrap())
        })
        .collect();
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap()).join("shaders.rs");
    std::fs::write(out, format!("pub const SHADERS: &[(&str, &str)] = &[\n{rows}];\n")).unwrap();
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    println!("cargo:rerun-if-changed={}", dir.display());
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            walk(&entry, files);
        } else if entry.extension().is_some_and(|e| e == "wgsl") {
            files.push(entry);
        }
    }
}
