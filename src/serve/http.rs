//! As much of HTTP/1.1 as the page needs: a request a connection, of a size and in a time that are limited.

use std::collections::BTreeMap;
use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The longest request line with headers, and the longest body, in bytes.
const HEAD: usize = 16 << 10;
const BODY: usize = 64 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// The time that a request may take to come in, and a response to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
pub struct Request {
    pub method: String,
    pub path: String,
    query: BTreeMap<String, String>,
    /// Names in lower case.
    headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    /// A value of the query; an empty text if it is not there.
    pub fn value(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Reads a request, or says by which status it is refused.
pub fn read(stream: &mut TcpStream) -> std::result::Result<Request, u16> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = vec![];
    let (mut request, head) = loop {
        if let Some(parsed) = parse(&bytes)? {
            break parsed;
        }
        if bytes.len() > HEAD {
            return Err(431);
        }
        more(stream, &mut bytes, until)?;
    };
    if request.header("transfer-encoding").is_some() {
        return Err(411);
    }
    let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(|_| 400_u16)?;
    if length > BODY {
        return Err(413);
    }
    while bytes.len() < head + length {
        more(stream, &mut bytes, until)?;
    }
    request.body = bytes[head..head + length].to_vec();
    Ok(request)
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>, until: Instant) -> std::result::Result<(), u16> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
        return Err(408);
    }
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Err(400),
        Ok(n) => {
            bytes.extend_from_slice(&buffer[..n]);
            Ok(())
        }
        Err(_) => Err(408),
    }
}

/// The head of a request and its length, once it is there as a whole.
fn parse(bytes: &[u8]) -> std::result::Result<Option<(Request, usize)>, u16> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(|_| 400_u16)? else {
        return Ok(None);
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = BTreeMap::new();
    for header in parsed.headers.iter() {
        let value = String::from_utf8(header.value.to_vec()).map_err(|_| 400_u16)?;
        // One of two lengths, or of two hosts, would be believed by somebody else.
        if headers.insert(header.name.to_ascii_lowercase(), value).is_some() {
            return Err(400);
        }
    }
    let request = Request {
        method: parsed.method.unwrap_or_default().to_string(),
        path: path.to_string(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers,
        body: vec![],
    };
    Ok(Some((request, length)))
}

/// An answer.
pub struct Response {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Response {
    /// A page, whose scripts and styles are its own and which loads pictures only from here.
    pub fn page(html: &str) -> Response {
        Response { status: 200, kind: "text/html; charset=utf-8", body: html.as_bytes().to_vec() }
    }

    pub fn json(value: &serde_json::Value) -> Response {
        Response { status: 200, kind: "application/json", body: value.to_string().into_bytes() }
    }

    pub fn png(bytes: Vec<u8>) -> Response {
        Response { status: 200, kind: "image/png", body: bytes }
    }

    /// A line that says what is wrong.
    pub fn error(status: u16, line: &str) -> Response {
        Response { status, kind: "text/plain; charset=utf-8", body: format!("{line}\n").into_bytes() }
    }

    /// Sends it and ends the connection.
    pub fn write(&self, stream: &mut TcpStream) -> Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let Response { status, kind, body } = self;
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
             Content-Security-Policy: default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\r\n",
            if *status == 200 { "OK" } else { "Refused" },
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        // What is left of a request that was refused is read and dropped, or the answer would be lost with it.
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let _ = std::io::copy(&mut stream.take(1 << 20), &mut std::io::sink());
        Ok(())
    }
}
