//! A kernel is a value: (WGSL file, entry point, parts, constants). From it comes the final source of one pipeline.
//!
//! The files in `shaders/` are readable WGSL. The host only
//! - writes a header in front (`alias A = vec4f;`, `const TILE = 64u;`),
//! - appends part files that define the functions a kernel leaves open (`fn act`, `fn load_a`),
//! - repeats lines that end in `//@ i j`: once for every i below `const R_i` and every j below `const R_j`, with `_i` and `_j`
//!   in names replaced by the numbers. That is how register tiles get *named* accumulators: no driver we measured keeps an
//!   array of them in registers.

use std::fmt::Write;

include!(concat!(env!("OUT_DIR"), "/shaders.rs"));

/// What names a pipeline: two equal kernels share one. Shapes are not part of it, they are parameter data of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// File below `shaders/`, without extension; of a kernel from elsewhere, its name.
    pub file: &'static str,
    /// Entry point in that file.
    pub entry: &'static str,
    /// WGSL that is not below `shaders/`.
    text: Option<&'static str>,
    parts: Vec<&'static str>,
    aliases: Vec<(&'static str, &'static str)>,
    consts: Vec<(&'static str, u32)>,
    enables: Vec<&'static str>,
    f16: bool,
}

impl Kernel {
    /// The kernel `fn entry` of `shaders/FILE.wgsl`.
    pub fn new(file: &'static str, entry: &'static str) -> Self {
        Kernel {
            file,
            entry,
            text: None,
            parts: vec![],
            aliases: vec![],
            consts: vec![],
            enables: vec![],
            f16: false,
        }
    }

    /// The kernel `fn entry` of a WGSL text, for ops outside this crate; `name` stands for it in profiles.
    pub fn from_wgsl(name: &'static str, entry: &'static str, text: &'static str) -> Self {
        Kernel { text: Some(text), ..Kernel::new(name, entry) }
    }

    /// Appends `shaders/PART.wgsl`.
    pub fn part(mut self, part: &'static str) -> Self {
        self.parts.push(part);
        self
    }

    /// `enable EXTENSION;`, for variants of devices that have it.
    pub fn enable(mut self, extension: &'static str) -> Self {
        self.enables.push(extension);
        self
    }

    /// `alias NAME = TY;`
    pub fn alias(mut self, name: &'static str, ty: &'static str) -> Self {
        self.aliases.push((name, ty));
        self
    }

    /// `const NAME: u32 = VALUE;`
    pub fn int(mut self, name: &'static str, value: usize) -> Self {
        self.consts.push((name, value as u32));
        self
    }

    /// Says that this variant is made for f16, packed two to a word. Any other kernel refuses f16 tensors when it is recorded.
    pub fn f16(mut self) -> Self {
        self.f16 = true;
        self
    }

    /// Whether it needs more than WebGPU's core.
    pub fn is_optional(&self) -> bool {
        !self.enables.is_empty()
    }

    pub(super) fn takes_f16(&self) -> bool {
        self.f16
    }

    /// A name that tells variants apart, for tables and file names: file, entry and parts.
    pub fn name(&self) -> String {
        let mut name = self.file.replace('/', "_");
        if self.entry != "main" {
            let _ = write!(name, "_{}", self.entry);
        }
        for part in &self.parts {
            let _ = write!(name, "+{}", part.rsplit('/').next().unwrap_or(part));
        }
        name
    }

    /// The whole WGSL of this variant.
    pub fn source(&self) -> String {
        let mut out = format!("// {}\n", self.name());
        for extension in &self.enables {
            let _ = writeln!(out, "enable {extension};");
        }
        for (name, ty) in &self.aliases {
            let _ = writeln!(out, "alias {name} = {ty};");
        }
        for (name, value) in &self.consts {
            let _ = writeln!(out, "const {name}: u32 = {value}u;");
        }
        let own = self.text.unwrap_or_else(|| shader(self.file));
        let parts = self.parts.iter().map(|part| (*part, shader(part)));
        for (file, text) in [("common", shader("common")), (self.file, own)].into_iter().chain(parts) {
            let _ = writeln!(out, "\n// ---- {file}.wgsl");
            out.push_str(&self.unroll(text));
        }
        out
    }

    /// Repeats the lines marked `//@`, and those between `//@ for i` and `//@ end`.
    fn unroll(&self, source: &str) -> String {
        let mut out = String::with_capacity(source.len());
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            let Some((text, indices)) = line.split_once("//@") else {
                out.push_str(line);
                out.push('\n');
                continue;
            };
            let (mut texts, indices) = match indices.trim().strip_prefix("for ") {
                None => (vec![text.trim_end().to_string()], indices),
                Some(index) => {
                    let block: Vec<_> = lines.by_ref().take_while(|l| l.trim() != "//@ end").collect();
                    (vec![block.join("\n")], index)
                }
            };
            for index in indices.split_whitespace() {
                let count = self.constant(&format!("R_{index}"));
                let (name, from) = (format!("_{index}"), texts);
                texts = from.iter().flat_map(|l| (0..count).map(|n| replace_suffix(l, &name, n))).collect();
            }
            for text in texts {
                out.push_str(&if text.contains("//@") { self.unroll(&text) } else { text + "\n" });
            }
        }
        out
    }

    fn constant(&self, name: &str) -> u32 {
        let found = self.consts.iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("{}: the kernel file needs the constant {name}", self.name())).1
    }
}

/// Text of `shaders/NAME.wgsl`.
fn shader(name: &str) -> &'static str {
    let found = SHADERS.iter().find(|(n, _)| *n == name);
    found.unwrap_or_else(|| panic!("no shader file shaders/{name}.wgsl")).1
}

/// Replaces `_i` by `_3` wherever it ends a part of an identifier: `c_i_j`, `u_i`, not `main_index`.
fn replace_suffix(line: &str, name: &str, value: u32) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(name) {
        let after = &rest[at + name.len()..];
        let ends = !after.starts_with(|c: char| c.is_ascii_alphanumeric());
        out.push_str(&rest[..at]);
        if ends {
            let _ = write!(out, "_{value}");
        } else {
            out.push_str(name);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrolled_lines_name_every_accumulator() {
        let kernel = Kernel::new("common", "main").int("R_i", 2).int("R_j", 1);
        let text = kernel.unroll("  c_i_j += b_j * a_i; //@ i j\n  x_index = u_i;\n");
        assert_eq!(text, "  c_0_0 += b_0 * a_0;\n  c_1_0 += b_0 * a_1;\n  x_index = u_i;\n");
        let text = kernel.unroll("//@ for i\n  a_i\n  c_i_j //@ j\n//@ end\n");
        assert_eq!(text, "  a_0\n  c_0_0\n  a_1\n  c_1_0\n");
    }
}
