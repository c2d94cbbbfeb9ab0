//! What will be painted, and painting it: `prompts` names new domains and writes a prompt for every image to come, `picture` is what
//! stands between them, `painted` is a PNG that says how it was made, and `generate` paints them.

pub mod generate;
pub mod painted;
pub mod picture;
pub mod prompts;
