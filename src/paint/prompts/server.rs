//! A server that speaks chat completions.

use super::answer::{self, Answer, Failure};
use super::chat::{LanguageModel, Reply, Request};
use crate::data::http::{asked_pause, is_here};
use crate::data::one_line;
use crate::progress::bail_if_stopped;
use anyhow::{Context, Result, bail};
use reqwest::blocking::{Client, Response};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url, redirect};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Most times that a request is sent to a server that is busy or fails.
const TRIES: u32 = 5;
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How freely replies are drawn: enough that equal requests differ.
const TEMPERATURE: f64 = 0.8;
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
    /// Whether it takes no seed or no temperature: some models refuse them.
    plain: AtomicBool,
}

impl Server {
    /// The server at `base` (`https://api.openai.com/v1`), to which `key` is sent. The environment's proxy is not asked for a server on
    /// this machine.
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
        let client = if is_here(&url) { Client::builder().no_proxy() } else { Client::builder() };
        let client = client
            .user_agent(concat!("kaleid/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .redirect(redirect::Policy::none())
            .build()
            .context("cannot set up HTTP")?;
        let (timeout, backoff) = (Duration::from_secs(60), Duration::from_secs(1));
        let (understood, plain) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Server { model: model.into(), timeout, backoff, url, key, client, understood, plain })
    }

    /// Sends the request once: status, the pause that the server asks for, and the body. A failure on the way is a text.
    fn send(&self, body: &Value) -> Result<(StatusCode, Option<Duration>, String), String> {
        let mut request = self.client.post(self.url.clone()).timeout(self.timeout).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response: Response = request.send().map_err(|e| match e.is_timeout() && !e.is_connect() {
            true => format!("no answer in {} s; --timeout sets how long to wait", self.timeout.as_secs_f64()),
            // Its URL may have a secret in its query.
            false => one_line(&format!("{:#}", anyhow::Error::from(e.without_url()))),
        })?;
        let (status, pause) = (response.status(), pause(response.headers()));
        let mut bytes = vec![];
        let read = response.take(MOST_BYTES).read_to_end(&mut bytes);
        read.map_err(|_| "the answer broke off".to_string())?;
        Ok((status, pause, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What the server says went wrong, as ": text".
    fn said(&self, failure: &Failure) -> String {
        let said = if failure.message.is_empty() { &failure.code } else { &failure.message };
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

    fn reply(&self, request: &Request, seed: u64, attempt: u32) -> Result<Reply> {
        let place = self.place();
        let content = match request.picture {
            None => json!(request.text),
            Some(uri) => json!([{"type": "text", "text": request.text},
                {"type": "image_url", "image_url": {"url": uri}}]),
        };
        let plain =
            json!({"model": self.model, "messages": [{"role": "user", "content": content}], "stream": false});
        let mut free = plain.clone();
        // Some servers keep seeds in 32 bits with a sign.
        free["seed"] = json!((seed.wrapping_add(u64::from(attempt)) % (1 << 31)) as u32);
        free["temperature"] = json!(TEMPERATURE);
        let (mut pause, mut why) = (Duration::ZERO, String::new());
        let mut n = 0;
        while n < TRIES {
            wait(pause)?;
            pause = self.backoff * 2u32.pow(n);
            n += 1;
            let is_plain = self.plain.load(Relaxed);
            let (status, asked, body) = match self.send(if is_plain { &plain } else { &free }) {
                Ok(answer) => answer,
                Err(failure) => {
                    why = failure;
                    continue;
                }
            };
            let (mut status, mut failure) = (status, Failure::default());
            match answer::read(&body) {
                Answer::Reply(reply) if status.is_success() => {
                    self.understood.store(true, Relaxed);
                    return Ok(match reply {
                        Reply::Text(text) => Reply::Text(self.without_key(&text)),
                        Reply::Nothing(why) => Reply::Nothing(one_line(&self.without_key(&why))),
                    });
                }
                Answer::Error(inside) => {
                    // A server that has begun its answer can only say so inside.
                    let of_code = inside.status.and_then(|code| StatusCode::from_u16(code).ok());
                    status =
                        if status.is_success() { of_code.unwrap_or(StatusCode::BAD_REQUEST) } else { status };
                    failure = inside;
                }
                Answer::Unknown if status.is_success() && attempt > 0 && !self.understood.load(Relaxed) => {
                    bail!(
                        "{place}: its answers are no chat completions; does the URL end as it should (often /v1)?"
                    )
                }
                Answer::Unknown if status.is_success() => {
                    return Ok(Reply::Nothing("no chat completion".into()));
                }
                _ => {}
            }
            if matches!(status.as_u16(), 400 | 422) && !is_plain {
                self.plain.store(true, Relaxed);
                (pause, n) = (Duration::ZERO, n - 1);
                continue;
            }
            why = format!("{status}{}", self.said(&failure));
            let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            if failure.is_final() {
                bail!("{place}: {why}; waiting will not help: see to the account, or choose another model");
            }
            if !passes {
                bail!("{place}: {why}{}", self.what_to_do(status));
            }
            pause = asked.unwrap_or(pause);
        }
        bail!("{place}: {why} (tried {TRIES} times); once it works, the same command resumes from here")
    }
}

/// The pause that a server asks for, if it is not too long.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    asked_pause(headers).map(|pause| pause.min(LONGEST_PAUSE))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn servers_of_this_machine_are_known() {
        for (url, here) in [
            ("http://localhost:8080/v1", true),
            ("http://127.0.0.5/v1", true),
            ("http://[::1]:8080/v1", true),
            ("http://llm.localhost/v1", true),
            ("http://0.0.0.0:8080", true),
            ("https://api.openai.com/v1", false),
            ("http://192.168.1.2/v1", false),
            ("http://localhost.example.org/v1", false),
        ] {
            assert_eq!(is_here(&Url::parse(url).unwrap()), here, "{url}");
        }
    }

    #[test]
    fn pauses_are_read_in_each_form_and_bounded() {
        let of = |name: &'static str, value: &str| {
            pause(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(of("retry-after", "4"), Some(Duration::from_secs(4)));
        assert_eq!(of("retry-after", "1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(of("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(of("retry-after", "3600"), Some(LONGEST_PAUSE));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(10));
        let asked = of("retry-after", &date).unwrap();
        assert!(asked > Duration::from_secs(7) && asked <= Duration::from_secs(10), "{asked:?}");
        assert_eq!(of("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        for odd in ["soon", "-3", "NaN", "1e300"] {
            assert_eq!(of("retry-after", odd), None, "{odd}");
        }
    }
}
