//! Painting: what is to be painted (`prompts`), and the images (`generate`).

pub mod generate;
pub mod prompts;
