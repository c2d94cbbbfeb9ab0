//! What will be painted, and painting it: `prompts` names new domains and writes a prompt for every image to come, `picture` is what
//! stands between them, `painted` is a PNG that says how it was made, `generate` plans the work, `batches` does it, `preview` shows how far it is, `about` says
//! what a picture or model is, and `export` hands them on.

pub mod about;
mod batches;
pub mod export;
pub mod generate;
pub mod origins;
pub mod painted;
pub mod picture;
mod preview;
pub mod prompts;
