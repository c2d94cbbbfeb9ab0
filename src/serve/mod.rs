//! A page on 127.0.0.1 to watch a run, to pause it and go on, and to judge what it paints.
//!
//! The server is a process beside the run, and knows only its folder. Whoever has the address with its token may read that folder's images
//! and change its `pause`, `prompts.jsonl` (before anything is painted) and `review.jsonl`; all else is refused.

mod http;
mod state;

use crate::study::run_toml;
use anyhow::{Context, Result, bail};
use http::{Request, Response};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Requests that are answered at the same time.
const AT_ONCE: usize = 32;

/// The page, before it is shown to anybody.
pub struct Server {
    listener: TcpListener,
    site: Arc<Site>,
}

/// What every request needs.
struct Site {
    /// The folder of the run.
    folder: PathBuf,
    /// `127.0.0.1:PORT`
    host: String,
    token: String,
    /// Files are changed by one request at a time.
    changes: Mutex<()>,
}

impl Server {
    /// A server of the run in `folder`; port 0 takes one that is free.
    ///
    /// # Errors
    /// A folder that holds no run; a port that is taken.
    pub fn open(folder: &Path, port: u16) -> Result<Server> {
        run_toml(folder)?;
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let listener =
            listener.with_context(|| format!("port {port}: cannot be opened; choose another --port"))?;
        let host = listener.local_addr().context("port")?.to_string();
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers for the token: {e}"))?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let site = Site { folder: folder.to_path_buf(), host, token, changes: Mutex::new(()) };
        Ok(Server { listener, site: Arc::new(site) })
    }

    /// What a browser opens.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.site.host, self.site.token)
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// A system that gives no more connections.
    pub fn run(self) -> Result<()> {
        // A clone for each request that is answered, which goes even if its thread panics.
        let busy = Arc::new(());
        for stream in self.listener.incoming() {
            // A browser that gives up before it is heard is nobody's mistake.
            let Ok(stream) = stream else { continue };
            if Arc::strong_count(&busy) <= AT_ONCE {
                let (site, busy) = (self.site.clone(), busy.clone());
                std::thread::spawn(move || {
                    serve(&site, stream);
                    drop(busy);
                });
            }
        }
        bail!("no more connections")
    }
}

/// Answers one request. Nobody is told of a connection that breaks.
fn serve(site: &Site, mut stream: TcpStream) {
    let response = match http::read(&mut stream) {
        Ok(request) => site.answer(&request),
        Err(status) => Response::error(status, "not a request that this page sends"),
    };
    let _ = response.write(&mut stream);
}

/// What the page sends of an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    file_name: String,
    prompt: String,
}

/// A new domain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Domain {
    folder: String,
}

impl Site {
    /// Without the token, or from a page of another origin, nothing is shown or done. A name that leads here by another way than
    /// 127.0.0.1 (DNS rebinding) is another origin.
    fn answer(&self, request: &Request) -> Response {
        let local = self.host.replace("127.0.0.1", "localhost");
        let is_own = |host: &str| host == self.host || host == local;
        let foreign = |origin: &str| !origin.strip_prefix("http://").is_some_and(is_own);
        if !request.header("host").is_some_and(is_own) || request.header("origin").is_some_and(foreign) {
            return Response::error(403, "not from this page");
        }
        if !same(request.value("token"), &self.token) {
            return Response::error(403, "open the address with its token, as kaleid serve printed it");
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", path) => self.show(path, request),
            ("POST", path) => {
                let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
                match self.change(path, request) {
                    Ok(true) => Response::json(&serde_json::json!({})),
                    Ok(false) => Response::error(404, "nothing here"),
                    Err(e) => Response::error(400, &format!("{e:#}")),
                }
            }
            _ => Response::error(405, "GET and POST only"),
        }
    }

    fn show(&self, path: &str, request: &Request) -> Response {
        let number = |name: &str| request.value(name).parse().unwrap_or(0);
        let (dir, set) = (&self.folder, request.value("set"));
        let shown = match path {
            "/" => return Response::page(include_str!("page.html")),
            "/report" => return self.report(),
            "/image" => return self.image(set, request.value("name")),
            "/state" => state::state(dir),
            "/images" => state::images(dir, set, request.value("show"), number("from")),
            "/prompts" => state::prompts(dir, number("from")),
            _ => return Response::error(404, "nothing here"),
        };
        shown.map_or_else(|e| Response::error(500, &format!("{e:#}")), |value| Response::json(&value))
    }

    fn report(&self) -> Response {
        let page = crate::study::report::page(&self.folder);
        page.map_or_else(|e| Response::error(500, &format!("{e:#}")), |page| Response::page(&page))
    }

    fn image(&self, set: &str, name: &str) -> Response {
        let Ok(file) = state::image(&self.folder, set, name) else {
            return Response::error(404, "no such image");
        };
        std::fs::read(file).map_or_else(|_| Response::error(404, "no such image"), Response::png)
    }

    /// Does what a POST asks for; false if there is no such thing.
    fn change(&self, path: &str, request: &Request) -> Result<bool> {
        let dir = &self.folder;
        match path {
            "/pause" => crate::progress::pause(dir)?,
            "/resume" => crate::progress::resume(dir).context("cannot resume")?,
            "/review" => state::review(dir, request.value("set"), &parsed(request)?)?,
            "/prompt" => {
                let Prompt { file_name, prompt } = parsed(request)?;
                state::edit_prompt(dir, &file_name, &prompt)?;
            }
            "/remove" => state::remove_domain(dir, &parsed::<Domain>(request)?.folder)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn parsed<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T> {
    serde_json::from_slice(&request.body).context("not the JSON that is asked for")
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}
