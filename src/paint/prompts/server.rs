//! A server that speaks chat completions.

use super::chat::LanguageModel;
use crate::data::one_line;
use crate::progress::bail_if_stopped;
use anyhow::{Context, Result, bail};
use reqwest::blocking::{Client, Response};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url, redirect};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Most times that a request is sent to a server that is busy or fails.
const TRIES: u32 = 5;
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A longer answer is truncated, and so cannot be read.
const MOST_BYTES: u64 = 1 << 20;
/// Shorter keys ("none", "ollama") are no secrets, and could be words of a reply.
const SECRET: usize = 8;

/// A server that speaks chat completions.
pub struct Server {
    /// Name of the model there.
    pub model: String,
    /// Longest wait for a whole answer.
    pub timeout: Duration,
    /// The pause before the second try; it doubles from try to try.
    pub backoff: Duration,
    url: Url,
    /// Never written to files, errors or logs, which is why this struct has no `Debug`.
    key: Option<String>,
    client: Client,
    /// Whether it has answered with a chat completion yet.
    understood: AtomicBool,
}

impl Server {
    /// The server at `base` (`https://api.openai.com/v1`), to which `key` is sent.
    ///
    /// # Errors
    /// A base that is no such URL, a key that cannot be sent.
    pub fn new(base: &str, model: &str, key: Option<&str>) -> Result<Server> {
        let Ok(mut url) = Url::parse(base) else { bail!("not a URL such as http://localhost:8080/v1") };
        if !matches!(url.scheme(), "http" | "https") {
            bail!("{}: the URL of a server begins with http:// or https://", shown(&url));
        }
        if !url.username().is_empty() || url.password().is_some() {
            bail!("{}: put the key in KALEID_LLM_KEY, not in the URL", shown(&url));
        }
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["chat", "completions"]);
        }
        let key = key.map(str::trim).filter(|k| !k.is_empty()).map(str::to_string);
        if key.as_ref().is_some_and(|k| HeaderValue::from_str(k).is_err()) {
            bail!("{}: the key holds characters that cannot be sent", shown(&url));
        }
        let client = Client::builder()
            .user_agent(concat!("kaleid/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .redirect(redirect::Policy::none())
            .build()
            .context("cannot set up HTTP")?;
        let (timeout, backoff) = (Duration::from_secs(60), Duration::from_secs(1));
        let understood = AtomicBool::new(false);
        Ok(Server { model: model.into(), timeout, backoff, url, key, client, understood })
    }

    /// Sends the request once: status, the pause that the server asks for, and the body. A failure on the way is a text.
    fn send(&self, body: &Value) -> Result<(StatusCode, Option<Duration>, String), String> {
        let mut request = self.client.post(self.url.clone()).timeout(self.timeout).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response: Response = request.send().map_err(|e| match e.is_timeout() && !e.is_connect() {
            true => format!("no answer in {} s", self.timeout.as_secs_f64()),
            // Its URL may have a secret in its query.
            false => one_line(&format!("{:#}", anyhow::Error::from(e.without_url()))),
        })?;
        let (status, after) = (response.status(), response.headers().get(RETRY_AFTER));
        let seconds = after.and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let pause = seconds.map(|s| Duration::from_secs(s).min(LONGEST_PAUSE));
        let mut bytes = vec![];
        let read = response.take(MOST_BYTES).read_to_end(&mut bytes);
        read.map_err(|_| "the answer broke off".to_string())?;
        Ok((status, pause, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The reply in the body of an answer.
    fn content(&self, body: &str, attempt: u32) -> Result<Option<String>> {
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        let reply = answer["choices"][0]["message"]["content"].as_str();
        if reply.is_some() {
            self.understood.store(true, Relaxed);
        } else if attempt > 0 && !self.understood.load(Relaxed) {
            bail!(
                "{}: its answers are no chat completions; does the URL end as it should (often /v1)?",
                self.place()
            );
        }
        Ok(reply.map(|text| self.without_key(text)))
    }

    /// What the body of a refusal says, as ": text".
    fn said(&self, body: &str) -> String {
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        let said = answer["error"]["message"].as_str().or(answer["error"].as_str()).unwrap_or_default();
        let said: String = one_line(&self.without_key(said)).chars().take(200).collect();
        if said.is_empty() { said } else { format!(": {said}") }
    }

    fn what_to_do(&self, status: StatusCode) -> String {
        match status.as_u16() {
            401 | 403 => {
                "; set OPENAI_API_KEY (or KALEID_LLM_KEY for a URL) to a key that is good there".into()
            }
            404 => {
                format!("; does the URL end as it should (often /v1), and is there a model {:?}?", self.model)
            }
            300..=399 => "; give the URL that this one redirects to".into(),
            _ => "; the server refuses the request: check URL and model".into(),
        }
    }

    /// A server may echo what it was sent.
    fn without_key(&self, text: &str) -> String {
        match self.key.as_ref().filter(|k| k.len() >= SECRET) {
            Some(key) => text.replace(key, "***"),
            None => text.to_string(),
        }
    }
}

impl LanguageModel for Server {
    fn name(&self) -> &str {
        &self.model
    }

    fn place(&self) -> String {
        shown(&self.url)
    }

    fn reply(&self, request: &str, _seed: u64, attempt: u32) -> Result<Option<String>> {
        let place = self.place();
        let body = json!({"model": self.model, "messages": [{"role": "user", "content": request}]});
        let (mut pause, mut why) = (Duration::ZERO, String::new());
        for n in 0..TRIES {
            wait(pause)?;
            pause = self.backoff * 2u32.pow(n);
            match self.send(&body) {
                Err(failure) => why = failure,
                Ok((status, _, body)) if status.is_success() => return self.content(&body, attempt),
                Ok((status, asked, body)) => {
                    why = format!("{status}{}", self.said(&body));
                    if !status.is_server_error() && !matches!(status.as_u16(), 408 | 429) {
                        bail!("{place}: {why}{}", self.what_to_do(status));
                    }
                    pause = asked.unwrap_or(pause);
                }
            }
        }
        bail!("{place}: {why} (tried {TRIES} times); once it works, the same command resumes from here")
    }
}

/// A URL without what may be secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    let _ = (url.set_username(""), url.set_password(None));
    url.into()
}

/// Sleeps, unless the user wants to stop.
fn wait(pause: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        bail_if_stopped()?;
        let left = pause.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}
