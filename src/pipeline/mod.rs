//! The stages the paper describes: prompts, images, diversity, training, report.

pub mod bench;
pub mod demo;
pub mod domainbed;
pub mod generate;
pub mod progress;
pub mod prompts;
pub mod report;
pub mod run;
pub mod score;
pub mod sweep;
pub mod train;
pub mod verify;

/// `art_painting` as people write it.
fn spaced(folder: &str) -> String {
    let words = folder.split(['_', '-', ' ']).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
