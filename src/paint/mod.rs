//! What will be painted, and painting it: `prompts` names new domains and writes a prompt for every image to come, `picture` is what
//! stands between them, and `generate` paints PNG files.

pub mod generate;
pub mod painted;
pub mod picture;
pub mod prompts;
