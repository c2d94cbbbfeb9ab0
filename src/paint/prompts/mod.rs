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
//! captions.rs   the original that a prompt describes
//! write.rs      a prompt for each, and the files
//! llm.rs        who writes: template.rs, server.rs or local.rs, the latter two through chat.rs
//! answer.rs     from a server's bytes to a text, or to why there is none
//! reply.rs      from a text to the description in it; names.rs to names of domains
//! words.rs      whether a text names something
//! ```

mod answer;
mod captions;
mod chat;
mod domains;
mod images;
mod labels;
mod llm;
mod local;
mod names;
mod reply;
mod server;
mod settings;
mod template;
mod words;
mod write;

pub use llm::Llm;
pub use reply::may_fit;
pub use server::Server;
pub use settings::{Balance, Prompting, Writing};
pub use template::{Grammar, Label, plain};
pub use write::Summary;

use crate::data::writable_folder;
use anyhow::Result;
use chat::{Chat, LanguageModel};
use images::Image;
use labels::Labels;
use local::Local;
use rayon::prelude::*;
use template::TEMPLATE;

/// Reads a text by every parser of what models and servers say, and leaves what they find: no text may make one of them panic, as a test
/// over damaged replies sees.
#[doc(hidden)]
pub fn read_reply(text: &str) {
    let _ = (
        answer::read(text),
        names::domain_names(text),
        reply::description(text, "dog", "watercolor", may_fit),
    );
}

/// Requests that a server works on at once.
const IN_FLIGHT: usize = 8;

/// Names new domains and writes a prompt for each image to come. A model's description must be one that `fits` the text encoder.
///
/// # Errors
/// A data set that does not open, names that do not fit it, a model that does not reply, Ctrl-C.
pub fn run(
    settings: &Prompting,
    llm: &Llm,
    grammar: &Grammar,
    fits: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Summary> {
    let labels = Labels::open(settings, grammar)?;
    writable_folder(&settings.out)?;
    let cache = settings.out.join("llm_cache");
    match llm {
        Llm::Template => {
            let new = labels.new_domains(TEMPLATE, vec![])?;
            labels.write(TEMPLATE, &new, None)
        }
        Llm::Server(server) => {
            let chat = Chat { model: server, cache };
            let new = labels.new_domains(server.name(), labels.ask_names(&chat)?)?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(IN_FLIGHT).build()?;
            labels.write(
                server.name(),
                &new,
                Some(&|images, attempts, progress| {
                    let ask =
                        |image: &&Image| labels.ask_prompt(&chat, image, attempts.clone(), fits, progress);
                    pool.install(|| images.par_iter().map(ask).collect())
                }),
            )
        }
        Llm::Local { folder, gpu } => {
            let model = Local::open(folder, gpu)?;
            let chat = Chat { model: &model, cache };
            let new = labels.new_domains(model.name(), labels.ask_names(&chat)?)?;
            labels.write(
                model.name(),
                &new,
                Some(&|images, attempts, progress| {
                    let ask =
                        |image: &&Image| labels.ask_prompt(&chat, image, attempts.clone(), fits, progress);
                    images.iter().map(ask).collect()
                }),
            )
        }
    }
}
