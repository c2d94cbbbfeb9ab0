//! What will be painted, and painting it: `prompts` names new domains and writes a prompt for every image to come, `picture` is what
//! stands between them, `painted` is a PNG that says how it was made, `generate` paints them, and `about` says what a picture or model is.

pub mod about;
pub mod generate;
pub mod origins;
pub mod painted;
pub mod picture;
pub mod prompts;
