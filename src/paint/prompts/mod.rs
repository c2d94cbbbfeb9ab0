//! `kaleid prompts`: which new domains there will be, and what every image to come shows. Writes `domains.json` and
//! `prompts.jsonl`, whose rows are the [pictures](super::picture) to paint.
//!
//! A language model names the domains and describes the images, or a grammar does; the grammar also fills in where no reply
//! will do. The domain that is held out for the test is kept from all of it.
//!
//! ```text
//! settings.rs   what is asked for
//! labels.rs     the data set's domains and classes, by name
//! domains.rs    the new domains
//! images.rs     how many images of each domain and class
//! write.rs      a prompt for each, and the files
//! llm.rs        who writes: template.rs, server.rs or local.rs, the latter two through chat.rs and reply.rs
//! ```

mod chat;
mod domains;
mod images;
mod labels;
mod llm;
mod local;
mod reply;
mod server;
mod settings;
mod template;
mod write;

pub use llm::Llm;
pub use server::Server;
pub use settings::{Prompting, Writing};
pub use template::{Grammar, Label};
pub use write::Summary;

use anyhow::Result;
use chat::{Chat, LanguageModel};
use labels::Labels;
use local::Local;
use rayon::prelude::*;
use template::TEMPLATE;

/// Requests that a server works on at once.
const IN_FLIGHT: usize = 8;

/// Names new domains and writes a prompt for each image to come.
///
/// # Errors
/// A data set that does not open, names that do not fit it, a model that does not reply, Ctrl-C.
pub fn run(settings: &Prompting, llm: &Llm, grammar: &Grammar) -> Result<Summary> {
    let labels = Labels::open(settings, grammar)?;
    let cache = settings.out.join("llm_cache");
    match llm {
        Llm::Template => {
            let new = labels.new_domains(TEMPLATE, vec![])?;
            labels.write(TEMPLATE, &new, |images, _| Ok(vec![None; images.len()]))
        }
        Llm::Server(server) => {
            let chat = Chat { model: server, cache };
            let new = labels.new_domains(server.name(), labels.ask_names(&chat)?)?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(IN_FLIGHT).build()?;
            labels.write(server.name(), &new, |images, progress| {
                pool.install(|| images.par_iter().map(|i| labels.ask_prompt(&chat, i, progress)).collect())
            })
        }
        Llm::Local { folder, gpu } => {
            let model = Local::open(folder, gpu)?;
            let chat = Chat { model: &model, cache };
            let new = labels.new_domains(model.name(), labels.ask_names(&chat)?)?;
            labels.write(model.name(), &new, |images, progress| {
                images.iter().map(|i| labels.ask_prompt(&chat, i, progress)).collect()
            })
        }
    }
}
