//! One file a subcommand: its flags, and what it prints. The work is in the library.

pub mod bench;
pub mod generate;
pub mod info;
pub mod prompts;
pub mod report;
pub mod run;
pub mod score;
pub mod train;
pub mod verify;
