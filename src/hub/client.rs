//! The hub's routes over HTTP: what a repository holds, what a file is, and its bytes, from where an earlier try stopped.

use super::Name;
use super::cache::{check_etag, is_commit, token};
use crate::data::http::{asked_pause, is_here};
use crate::data::one_line;
use crate::progress::{Progress, bail_if_stopped};
use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::blocking::{self, Response};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, RANGE};
use reqwest::{Method, StatusCode, Url, redirect};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Most tries of a request that brings nothing new.
const TRIES: u32 = 5;
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// Longest answer that is no file.
const MOST_BYTES: u64 = 64 << 20;

/// A repository at a revision.
pub struct Repository {
    pub commit: String,
    /// Its files.
    pub files: Vec<String>,
    /// As its card says it.
    pub licence: Option<String>,
}

/// A file at a commit.
pub struct Remote {
    /// The name of its contents: their hash.
    pub etag: String,
    pub size: Option<u64>,
}

/// Who speaks with the hub.
pub struct Client {
    /// Goes where it is sent; the token stays behind when that is another host.
    following: blocking::Client,
    /// Stops there: what the hub itself says of a file stands in the answer that sends elsewhere.
    staying: blocking::Client,
    endpoint: String,
    token: Option<String>,
    /// Longest silence.
    patience: Duration,
    /// The pause before the second try; it doubles from try to try.
    backoff: Duration,
}

impl Client {
    /// A client of `HF_ENDPOINT`, or of the hub.
    ///
    /// # Errors
    /// Settings that are none.
    pub fn new() -> Result<Client> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|url| !url.is_empty());
        let endpoint = endpoint.unwrap_or("https://huggingface.co".into()).trim_end_matches('/').to_string();
        let here = Url::parse(&endpoint).is_ok_and(|url| is_here(&url));
        let client = |policy: redirect::Policy| {
            let client =
                if here { blocking::Client::builder().no_proxy() } else { blocking::Client::builder() };
            client
                .user_agent(concat!("kaleid/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(10))
                .timeout(None)
                .redirect(policy)
                .build()
                .context("cannot set up HTTP")
        };
        let same_host = redirect::Policy::custom(|attempt| {
            let before = attempt.previous().last().and_then(|url| Some((url.host()?.to_owned(), url.port())));
            let next = attempt.url().host().map(|host| (host.to_owned(), attempt.url().port()));
            if before == next && attempt.previous().len() < 10 { attempt.follow() } else { attempt.stop() }
        });
        let seconds = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|text| text.parse().ok());
        Ok(Client {
            following: client(redirect::Policy::limited(10))?,
            staying: client(same_host)?,
            endpoint,
            token: token(),
            patience: Duration::from_secs(seconds.unwrap_or(10)),
            backoff: Duration::from_millis(500),
        })
    }

    /// What a repository holds.
    ///
    /// # Errors
    /// No such repository, one that may not be read, a server that fails.
    pub fn repository(&self, name: &Name) -> Result<Repository> {
        let kind = if name.is_dataset { "datasets" } else { "models" };
        let revision = escaped(&name.revision, true);
        let url = format!("{}/api/{kind}/{}/revision/{revision}", self.endpoint, name.repository);
        let response = self.ask(name, Method::GET, &url, &self.following, None)?;
        let mut bytes = vec![];
        response
            .take(MOST_BYTES)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{url}: the answer broke off"))?;
        let info: Value =
            serde_json::from_slice(&bytes).map_err(|e| anyhow!("{url}: not what the hub answers: {e}"))?;
        let commit = info["sha"].as_str().filter(|sha| is_commit(sha));
        let files = info["siblings"].as_array().map(|files| {
            files.iter().filter_map(|file| file["rfilename"].as_str()).map(str::to_string).collect()
        });
        let (Some(commit), Some(files)) = (commit, files) else {
            bail!("{url}: not what the hub answers: no sha and siblings")
        };
        let tag = |tag: &Value| tag.as_str()?.strip_prefix("license:").map(str::to_string);
        let card = info["cardData"]["license"].as_str().map(str::to_string);
        let licence = card.or_else(|| info["tags"].as_array()?.iter().find_map(tag));
        Ok(Repository { commit: commit.to_string(), files, licence })
    }

    /// What a file is, without its bytes.
    ///
    /// # Errors
    /// As [`Client::repository`]; no such file.
    pub fn remote(&self, name: &Name, revision: &str, file: &str) -> Result<Remote> {
        let response = self.ask(name, Method::HEAD, &self.url(name, revision, file), &self.staying, None)?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_string());
        let etag = header("x-linked-etag").or_else(|| header(ETAG.as_str()));
        let etag = etag.with_context(|| format!("{file}: the server does not say which contents it has"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        check_etag(&etag).with_context(|| file.to_string())?;
        let length = || header(CONTENT_LENGTH.as_str()).filter(|_| !response.status().is_redirection());
        let size = header("x-linked-size").or_else(length).and_then(|size| size.parse().ok());
        Ok(Remote { etag, size })
    }

    /// Appends what `partial` lacks of a file.
    ///
    /// # Errors
    /// As [`Client::remote`]; a disk that is full; Ctrl-C.
    pub fn bytes(
        &self,
        name: &Name,
        revision: &str,
        file: &str,
        size: Option<u64>,
        partial: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let url = self.url(name, revision, file);
        let cannot = || format!("{}: cannot write", partial.display());
        let (mut tries, mut refused, mut last) = (0, 0, String::new());
        while tries < TRIES {
            let have = std::fs::metadata(partial).map_or(0, |m| m.len());
            if size == Some(have) {
                return Ok(());
            }
            if size.is_some_and(|size| have > size) {
                File::create(partial).with_context(cannot)?;
                continue;
            }
            // Signed addresses were seen to refuse ranges that they should serve: the third try asks for the whole.
            let have = if refused < 2 { have } else { 0 };
            let response =
                match self.ask(name, Method::GET, &url, &self.following, (have > 0).then_some(have)) {
                    Err(e) if e.is::<Forbidden>() && refused < 2 && have > 0 => {
                        refused += 1;
                        continue;
                    }
                    response => response?,
                };
            let start = match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                    range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
                }
                StatusCode::RANGE_NOT_SATISFIABLE => None,
                _ => Some(0),
            };
            let mut out = OpenOptions::new().create(true).append(true).open(partial).with_context(cannot)?;
            match start {
                Some(start) if start == have && have > 0 => {}
                Some(0) => out.set_len(0).with_context(cannot)?,
                _ => {
                    // Another part than was asked for: from the beginning.
                    out.set_len(0).with_context(cannot)?;
                    tries += 1;
                    continue;
                }
            }
            let before = if start == Some(0) { 0 } else { have };
            match self.copy(response, &mut out, size.map(|size| size - before), progress) {
                Ok(0) => tries += 1,
                Ok(_) if size.is_none() => return Ok(()),
                Ok(_) => tries = 0,
                Err(Broken::Here(e)) => return Err(e.context(cannot())),
                Err(Broken::There(e, brought)) => {
                    last = e;
                    tries = if brought > 0 && start != Some(0) { 0 } else { tries + 1 };
                    std::thread::sleep(self.backoff * tries);
                }
            }
        }
        let (have, of) = (std::fs::metadata(partial).map_or(0, |m| m.len()), size.unwrap_or(0));
        let last = if last.is_empty() { last } else { format!(": {last}") };
        bail!(
            "{url}: broke off {TRIES} times, with {have} of {of} bytes{last}; the same command goes on from there"
        )
    }

    /// Copies a body to `out`, at most `most` bytes; how many came.
    fn copy(
        &self,
        mut body: Response,
        out: &mut File,
        most: Option<u64>,
        progress: &Progress,
    ) -> Result<u64, Broken> {
        // A reader of its own, since a body cannot be waited for for a while only.
        let (send, receive) = sync_channel::<std::io::Result<Vec<u8>>>(2);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = body.read(&mut chunk).map(|n| {
                    chunk.truncate(n);
                    chunk
                });
                let is_last = read.as_ref().map_or(true, Vec::is_empty);
                if send.send(read).is_err() || is_last {
                    return;
                }
            }
        });
        let mut brought = 0;
        loop {
            let chunk = match receive.recv_timeout(self.patience) {
                Err(_) => {
                    let silence = format!("nothing came for {} s", self.patience.as_secs());
                    return Err(Broken::There(silence, brought));
                }
                Ok(Err(e)) => return Err(Broken::There(one_line(&e.to_string()), brought)),
                Ok(Ok(chunk)) if chunk.is_empty() => return Ok(brought),
                Ok(Ok(chunk)) => chunk,
            };
            if most.is_some_and(|most| brought + chunk.len() as u64 > most) {
                return Err(Broken::Here(anyhow!("the server sends more bytes than it said")));
            }
            out.write_all(&chunk).map_err(|e| Broken::Here(e.into()))?;
            brought += chunk.len() as u64;
            progress.inc(chunk.len() as u64);
            bail_if_stopped().map_err(Broken::Here)?;
        }
    }

    /// Sends a request until the server answers it.
    fn ask(
        &self,
        name: &Name,
        method: Method,
        url: &str,
        client: &blocking::Client,
        from: Option<u64>,
    ) -> Result<Response> {
        let mut pause = self.backoff;
        for left in (0..TRIES).rev() {
            bail_if_stopped()?;
            let mut request = client.request(method.clone(), url).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let (wait, said) = match request.send() {
                Ok(response) => {
                    let status = response.status();
                    let again = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
                    match status.is_success() || status.is_redirection() || status.as_u16() == 416 {
                        true => return Ok(response),
                        false if !again => return Err(self.refusal(name, url, response)),
                        false => (allowed_after(&response), format!("it answers {status}")),
                    }
                }
                // Its address may have a secret in its query.
                Err(e) => (None, one_line(&format!("{:#}", anyhow::Error::from(e.without_url())))),
            };
            if left == 0 {
                bail!("{url}: {said} (tried {TRIES} times)");
            }
            let wait = wait.unwrap_or(pause);
            if wait > Duration::from_secs(2) {
                eprintln!("{}: {said}; waiting {} s", self.endpoint, wait.as_secs());
            }
            std::thread::sleep(wait);
            pause *= 2;
        }
        bail!("{url}: not asked")
    }

    /// What a refusal means, and what to do.
    fn refusal(&self, name: &Name, url: &str, response: Response) -> anyhow::Error {
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_string());
        let (status, code) = (response.status(), header("x-error-code").unwrap_or_default());
        let message = header("x-error-message").map(|text| one_line(&text)).unwrap_or_default();
        let (id, page) = (name.id(), format!("{}/{}", self.endpoint, name.id()));
        let text = match (status.as_u16(), code.as_str()) {
            (_, "GatedRepo") => {
                let then = if self.token.is_some() { "" } else { ", then set HF_TOKEN" };
                format!("{id} is gated: accept its licence at {page}{then}")
            }
            (_, "RepoNotFound") | (401, _) => {
                let or = if self.token.is_some() {
                    "or HF_TOKEN may not read it"
                } else {
                    "or it is private: set HF_TOKEN"
                };
                let bad =
                    if message.contains("Invalid credentials") { " (HF_TOKEN is not valid)" } else { "" };
                format!("no repository {id} there, {or}{bad}")
            }
            (_, "RevisionNotFound") => format!("{id} has no revision {}", name.revision),
            (_, "EntryNotFound") => format!("{url}: {id} has no such file"),
            (404, _) => format!("{url}: not there"),
            (403, _) => {
                let body: String = response.text().unwrap_or_default().chars().take(200).collect();
                let said = if message.is_empty() { one_line(&body) } else { message };
                return anyhow::Error::new(Forbidden(format!("{id}: access is refused (403): {said}")));
            }
            _ if message.is_empty() => format!("{url}: it answers {status}"),
            _ => format!("{url}: it answers {status}: {message}"),
        };
        anyhow!(text)
    }

    fn url(&self, name: &Name, revision: &str, file: &str) -> String {
        format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            name.id(),
            escaped(revision, true),
            escaped(file, false)
        )
    }
}

/// Status 403.
#[derive(Debug)]
struct Forbidden(String);

impl std::fmt::Display for Forbidden {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Forbidden {}

/// Why a body did not come whole.
enum Broken {
    /// This machine, or its user.
    Here(anyhow::Error),
    /// The way, after so many bytes.
    There(String, u64),
}

/// The pause that a busy server asks for.
fn allowed_after(response: &Response) -> Option<Duration> {
    // `"resolvers";r=0;t=55`: nothing left, for so many seconds.
    let limit = response.headers().get("ratelimit").and_then(|limit| {
        let (_, seconds) = limit.to_str().ok().filter(|text| text.contains(";r=0"))?.rsplit_once(";t=")?;
        Some(Duration::from_secs(seconds.parse::<u64>().ok()?.saturating_add(1)))
    });
    limit.or_else(|| asked_pause(response.headers())).map(|pause| pause.min(LONGEST_PAUSE))
}

/// Text as a part of an address; of a path, the strokes stay.
fn escaped(text: &str, stroke: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (b == b'/' && !stroke);
    text.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Sees that a file has the contents that its name says, where that is a hash.
///
/// # Errors
/// Others.
pub fn verify(path: &Path, etag: &str, size: Option<u64>) -> Result<()> {
    use sha1::Digest;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    ensure!(size.is_none_or(|size| size == length), "{length} bytes came, not {}", size.unwrap_or(0));
    let is_hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = match etag.len() {
        64 if is_hex => {
            let mut hasher = sha2::Sha256::new();
            std::io::copy(&mut file, &mut Feed(|bytes: &[u8]| hasher.update(bytes)))?;
            hex(&hasher.finalize())
        }
        40 if is_hex => {
            let mut hasher = sha1::Sha1::new();
            hasher.update(format!("blob {length}\0"));
            std::io::copy(&mut file, &mut Feed(|bytes: &[u8]| hasher.update(bytes)))?;
            hex(&hasher.finalize())
        }
        _ => return Ok(()),
    };
    ensure!(
        hash == etag.to_lowercase(),
        "other contents came than the hub names: their hash is {hash}, not {etag}"
    );
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that are written go to a function.
struct Feed<F: FnMut(&[u8])>(F);

impl<F: FnMut(&[u8])> Write for Feed<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
