//! One file per subcommand: its flags, and what it prints. The work is in the library.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::io::Write;

/// `println!` that returns an error instead of panicking: the reader of a pipe may end, or the disk be full.
macro_rules! say {
    ($($text:tt)*) => { $crate::commands::print_line(format_args!($($text)*)) };
}

/// Prints one line.
pub fn print_line(line: std::fmt::Arguments) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}

/// The present form of a flag that once had another name.
pub fn renamed(argument: OsString) -> OsString {
    match argument.to_str() {
        Some("--plain-validation") => "--val-augment=false".into(),
        Some("--skip-train-accuracy") => "--train-accuracy=false".into(),
        _ => argument,
    }
}

pub mod bench;
pub mod chat;
pub mod data;
pub mod export;
pub mod fetch;
pub mod generate;
pub mod info;
pub mod prompts;
pub mod report;
pub mod run;
pub mod score;
pub mod select;
pub mod serve;
pub mod sweep;
pub mod train;
pub mod verify;
