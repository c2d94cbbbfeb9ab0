//! What every client of a server asks: whether it is this machine, and how long it wants to be left alone.

use reqwest::Url;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// The pause that a server asks for, in milliseconds, seconds, or as a date.
pub fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let seconds = |text: &str| text.parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let date = |text: &str| {
        let until = httpdate::parse_http_date(text).ok()?;
        Some(until.duration_since(SystemTime::now()).unwrap_or_default())
    };
    let after = || text(RETRY_AFTER.as_str()).and_then(|t| seconds(t).or_else(|| date(t)));
    text("retry-after-ms").and_then(seconds).map(|ms| ms / 1000).or_else(after)
}

/// Whether a URL is one of this machine, for which no proxy is asked.
pub fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    is_loopback || host == "localhost" || host.ends_with(".localhost")
}
