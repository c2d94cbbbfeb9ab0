//! `kaleid serve`: what its page does, asked by hand and in a browser; and what it does not do, whoever asks.
//!
//! The test in a browser needs Chromium: `cargo test --release --test serve -- --ignored`.
#![cfg(unix)]

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kaleid"));
    program.stdin(Stdio::null());
    program
}

/// A process that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `kaleid serve`, its host and its token.
fn serve(dir: &Path) -> (Running, String, String) {
    let mut child = program().arg("serve").arg(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (host, token) = line.trim().strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    assert!(host.starts_with("127.0.0.1:") && token.len() == 32, "{line}");
    (Running(child), host.to_string(), token.to_string())
}

/// What comes back for these bytes: the status, and the body.
fn send(host: &str, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(host).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).to_string();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_string())
}

fn get(host: &str, target: &str) -> (u16, String) {
    send(host, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
}

fn post(host: &str, target: &str, body: &Value) -> (u16, String) {
    let (body, origin) = (body.to_string(), format!("http://{host}"));
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: {}",
        body.len()
    );
    send(host, format!("{head}\r\n\r\n{body}").as_bytes())
}

/// The folder of a run that wrote its prompts and, if so, painted them.
fn a_run(dir: &Path, painted: bool) {
    let config = program().args(["run", "--show-config"]).output().unwrap();
    std::fs::write(dir.join("run.toml"), config.stdout).unwrap();
    let domains =
        json!({"original": [], "new": [{"folder": "ink", "name": "ink"}, {"folder": "oil", "name": "oil"}]});
    std::fs::write(dir.join("domains.json"), domains.to_string()).unwrap();
    let (mut prompts, mut rows) = (String::new(), String::new());
    for domain in ["ink", "oil"] {
        for i in 0..3 {
            let name = format!("{domain}/dog/0000{i}.png");
            let mut row = json!({"file_name": name, "domain": domain, "class": "dog", "prompt": format!("<b>dog</b> {i}"), "seed": i});
            prompts += &format!("{row}\n");
            row["selection"] = json!({"action": if i == 1 { "flag" } else { "keep" }, "reasons": [], "tries": 0,
                "class_margin": 0.1, "style_margin": 0.1, "original": null, "painted": null});
            rows += &format!("{row}\n");
            if painted {
                let file = dir.join("images").join(name);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                image::RgbImage::from_pixel(8, 8, image::Rgb([40 * i as u8, 90, 120])).save(file).unwrap();
            }
        }
    }
    std::fs::write(dir.join("prompts.jsonl"), prompts).unwrap();
    if painted {
        std::fs::write(dir.join("images/metadata.jsonl"), rows).unwrap();
    }
}

#[test]
fn without_the_token_or_from_another_origin_nothing_is_shown_or_done() {
    let dir = tempfile::tempdir().unwrap();
    a_run(dir.path(), true);
    let (_server, host, token) = serve(dir.path());
    let body = json!({"file_name": "ink/dog/00000.png", "verdict": "reject"});
    let wrong = "0".repeat(32);
    for target in ["/", "/state", "/report", "/image?set=images&name=ink/dog/00000.png", "/nothing"] {
        for with in ["", "token=", &format!("token={wrong}"), &format!("token={token}0")] {
            let (status, said) =
                get(&host, &format!("{target}{}{with}", if target.contains('?') { '&' } else { '?' }));
            assert_eq!((status, said.contains("token")), (403, true), "{target} {with}: {said}");
        }
    }
    assert_eq!(post(&host, "/review?set=images", &body).0, 403);
    let good = format!("/review?set=images&token={token}");
    let text = body.to_string();
    for (host_said, origin) in [
        ("evil.example", "http://evil.example"),
        ("evil.example", ""),
        (host.as_str(), "http://evil.example"),
        (host.as_str(), "null"),
        (host.as_str(), "https://localhost"),
        (host.as_str(), "http://127.0.0.1"),
    ] {
        let origin = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        let head = format!(
            "POST {good} HTTP/1.1\r\nHost: {host_said}\r\n{origin}Content-Length: {}\r\n\r\n{text}",
            text.len()
        );
        assert_eq!(send(&host, head.as_bytes()).0, 403, "{head}");
    }
    assert!(!dir.path().join("images/review.jsonl").exists());
    assert_eq!(post(&host, &good, &body).0, 200);
    let written = std::fs::read_to_string(dir.path().join("images/review.jsonl")).unwrap();
    assert_eq!(written, "{\"file_name\":\"ink/dog/00000.png\",\"verdict\":\"reject\"}\n");
}

#[test]
fn requests_of_any_size_or_shape_are_refused_and_harm_nothing() {
    let dir = tempfile::tempdir().unwrap();
    a_run(dir.path(), true);
    std::os::unix::fs::symlink(dir.path().join("run.toml"), dir.path().join("images/ink/dog/link.png"))
        .unwrap();
    let before = std::fs::read(dir.path().join("run.toml")).unwrap();
    let (_server, host, token) = serve(dir.path());
    let line = |rest: &str| {
        format!("POST /pause?token={token} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n\r\n").into_bytes()
    };
    let long = "x".repeat(40_000);
    let huge = line(&format!("Content-Length: {}", u64::MAX));
    let cases: [(u16, Vec<u8>); 11] = [
        (400, b"".to_vec()),
        (400, b"\x16\x03\x01\x02\x00\x01".to_vec()),
        (400, vec![0; 100_000]),
        (400, b"GET / HTTP/1.1\r\nHost: a".to_vec()),
        (431, format!("GET /?{long} HTTP/1.1\r\n").into_bytes()),
        (431, format!("GET / HTTP/1.1\r\nX: {long}").into_bytes()),
        (413, huge),
        (400, line("Content-Length: -1")),
        (400, line("Content-Length: 1\r\nContent-Length: 2")),
        (411, line("Transfer-Encoding: chunked")),
        (400, line("Content-Length: 100")),
    ];
    for (status, bytes) in cases {
        assert_eq!(
            send(&host, &bytes).0,
            status,
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        );
    }
    for name in [
        "../run.toml",
        "/etc/passwd",
        "ink/dog/../../../run.toml",
        "ink/dog/link.png",
        "ink\\dog\\00000.png",
        "",
        "ink",
        "a%00.png",
    ] {
        let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let (status, said) = get(&host, &format!("/image?set=images&name={name}&token={token}"));
        assert_eq!((status, said.as_str()), (404, "no such image\n"), "{name}");
    }
    assert_eq!(get(&host, &format!("/image?set=..&name=run.toml&token={token}")).0, 404);
    let change = |path: &str, body: Value| post(&host, &format!("{path}?set=images&token={token}"), &body);
    for body in [
        json!([]),
        json!({"file_name": "x.png", "verdict": "keep"}),
        json!({"file_name": "ink/dog/00000.png", "verdict": 1}),
    ] {
        assert_eq!(change("/review", body).0, 400);
    }
    let (status, said) = change("/prompt", json!({"file_name": "ink/dog/00000.png", "prompt": "a cat"}));
    assert_eq!((status, said.as_str()), (400, "images are painted from these prompts already\n"));
    // Those that never say what they want keep nobody else waiting.
    let _silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&host).unwrap()).collect();
    assert_eq!(get(&host, &format!("/state?token={token}")).0, 200);
    assert!(!dir.path().join("images/review.jsonl").exists() && !dir.path().join("pause").exists());
    assert_eq!(std::fs::read(dir.path().join("run.toml")).unwrap(), before);
}

#[test]
fn prompts_are_changed_before_they_are_painted() {
    let dir = tempfile::tempdir().unwrap();
    a_run(dir.path(), false);
    let (_server, host, token) = serve(dir.path());
    let change = |path: &str, body: Value| post(&host, &format!("{path}?token={token}"), &body);
    assert_eq!(change("/prompt", json!({"file_name": "oil/dog/00001.png", "prompt": " a wolf\n"})).0, 200);
    assert_eq!(
        change("/prompt", json!({"file_name": "oil/dog/00001.png", "prompt": " "})).1,
        "a prompt needs words\n"
    );
    assert_eq!(change("/prompt", json!({"file_name": "oil/dog/9.png", "prompt": "a"})).0, 400);
    assert_eq!(change("/remove", json!({"folder": "ink"})).0, 200);
    assert!(change("/remove", json!({"folder": "ink"})).1.contains("not one of the new domains"));
    assert!(change("/remove", json!({"folder": "oil"})).1.contains("nothing would be left"));
    let left = std::fs::read_to_string(dir.path().join("prompts.jsonl")).unwrap();
    let left: Vec<Value> = left.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let prompts: Vec<&str> = left.iter().map(|row| row["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["<b>dog</b> 0", "a wolf", "<b>dog</b> 2"]);
    assert_eq!(left[1]["seed"], 1);
    let domains = std::fs::read_to_string(dir.path().join("domains.json")).unwrap();
    assert!(domains.contains("oil") && !domains.contains("ink"));
}

#[test]
fn a_folder_without_a_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let said = program().arg("serve").arg(dir.path()).output().unwrap();
    let line = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    assert!(line.contains("no run.toml in it"));
}

/// Chromium without a window, told what to do through two pipes.
struct Browser {
    _process: Running,
    _home: tempfile::TempDir,
    to: File,
    from: BufReader<File>,
    session: String,
    last: u64,
}

impl Browser {
    fn open(url: &str) -> Browser {
        let home = tempfile::tempdir().unwrap();
        let [to, from] = ["to", "from"].map(|name| home.path().join(name));
        assert!(Command::new("mkfifo").args([&to, &from]).status().unwrap().success());
        // The shell, since file numbers 3 and 4 are what Chromium reads and writes.
        let flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run \
                     --disable-background-networking --disable-component-update --disable-sync --disable-quic";
        let line = format!(
            "exec chromium {flags} --user-data-dir='{0}/profile' 3<'{0}/to' 4>'{0}/from'",
            home.path().display()
        );
        let quiet = || Stdio::null();
        let process = Command::new("sh")
            .args(["-c", &line])
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        let to = File::options().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let mut browser =
            Browser { _process: Running(process), _home: home, to, from, session: String::new(), last: 0 };
        let target = browser.call("Target.createTarget", json!({"url": url}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_string();
        browser
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut bytes = vec![];
            self.from.read_until(0, &mut bytes).unwrap();
            let answer: Value = serde_json::from_slice(&bytes[..bytes.len().saturating_sub(1)]).unwrap();
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    fn until(&mut self, expression: &str, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while self.eval(expression) != true {
            let page = self.eval("document.body?.innerText");
            assert!(Instant::now() < end, "{expression} did not come true: {page}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A click of the mouse on what a selector finds.
    fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{ block: 'center' }}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})()"
        );
        let place = self.eval(&place);
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    fn key(&mut self, key: &str) {
        let text = if key.len() == 1 {
            key
        } else if key == "Enter" {
            "\r"
        } else {
            ""
        };
        self.call("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": key, "text": text}));
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// The page as it looks, and how many colours it has.
    fn screenshot(&mut self, width: u32, to: &Path) -> usize {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let wide = self.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= u64::from(width), "the page is {wide} wide on a screen of {width}");
        let data = self.call("Page.captureScreenshot", json!({}))["data"].clone();
        let bytes =
            base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data.as_str().unwrap()).unwrap();
        std::fs::write(to, &bytes).unwrap();
        let image = image::load_from_memory(&bytes).unwrap().to_rgb8();
        image.pixels().collect::<std::collections::HashSet<_>>().len()
    }
}

/// Where screenshots are left to be looked at.
fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
#[ignore = "needs Chromium"]
fn a_run_is_watched_edited_and_judged_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let settings = [
        "images.steps=1",
        "images.size=[32, 32]",
        "images.saved_size=[32, 32]",
        "prompts.share=0.02",
        "train.steps=2",
    ];
    let mut run = program();
    run.args(["run", "--quick", "--review", "compare.variants=[\"q\"]", "--out"]).arg(&out).args(settings);
    let said = File::create(dir.path().join("said")).unwrap();
    let mut run = Running(run.stderr(said).stdout(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(120);
    while !out.join("pause").exists() {
        assert!(Instant::now() < end && run.0.try_wait().unwrap().is_none(), "it pauses before it paints");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (_server, host, token) = serve(&out);
    let mut page = Browser::open(&format!("http://{host}/?token={token}"));
    page.until("document.querySelector('#what')?.textContent.includes('paused')", 30);
    let prompts = || std::fs::read_to_string(out.join("prompts.jsonl")).unwrap();

    // Prompts are edited, and a new domain is removed.
    page.click("[data-tab=prompts]");
    page.until("document.querySelectorAll('textarea').length > 5", 30);
    let first = page.eval("document.querySelector('textarea').ariaLabel").as_str().unwrap().to_string();
    page.click("textarea");
    page.eval("document.activeElement.select()");
    "a wolf of ink".chars().for_each(|letter| page.key(&letter.to_string()));
    page.key("Tab");
    page.eval("document.activeElement.blur()");
    let end = Instant::now() + Duration::from_secs(30);
    while !prompts().contains("a wolf of ink") {
        assert!(Instant::now() < end, "the prompt is written");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(page.screenshot(1000, &screenshots().join("prompts.png")) > 10);

    // It goes on, is watched, and pauses before it trains.
    page.click("[data-tab=watch]");
    page.click("#pause");
    page.until("document.querySelectorAll('#newest img').length > 5", 300);
    page.until("document.querySelector('#what').textContent.includes('paused')", 300);
    assert!(page.screenshot(1000, &screenshots().join("watch.png")) > 100);

    // Images are judged by keys.
    page.click("[data-tab=review]");
    page.until("document.querySelectorAll('#grid figure').length > 5", 30);
    page.until(
        "[...document.querySelectorAll('#grid img')].every(i => i.complete && i.naturalWidth === 32)",
        30,
    );
    page.key("r");
    "blurred".chars().for_each(|letter| page.key(&letter.to_string()));
    page.key("Enter");
    page.until("document.querySelector('#grid figure').className === 'reject'", 30);
    page.until("document.querySelectorAll('#grid figure')[1].getAttribute('aria-current') === 'true'", 30);
    page.key("a");
    page.until("document.querySelectorAll('#grid figure')[1].className === 'keep'", 30);
    page.key("r");
    page.key("Enter");
    page.until("document.querySelectorAll('#grid figure')[2].className === 'reject'", 30);
    page.key("u");
    page.until("document.querySelectorAll('#grid figure')[2].className === ''", 30);
    assert!(page.screenshot(1000, &screenshots().join("review.png")) > 100);
    assert!(page.screenshot(390, &screenshots().join("review-phone.png")) > 100);
    page.key("Enter");
    page.until("document.body.className === 'large'", 30);
    assert!(page.screenshot(390, &screenshots().join("one-phone.png")) > 100);

    // What was rejected is trained on by nobody, and the edited prompt was painted.
    page.click("[data-tab=watch]");
    page.click("#pause");
    assert!(run.0.wait().unwrap().success(), "{}", std::fs::read_to_string(dir.path().join("said")).unwrap());
    page.until("document.querySelector('#what').textContent.startsWith('No run')", 30);
    let lines = |file: &str| {
        let text = std::fs::read_to_string(out.join("images").join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let said = lines("review.jsonl");
    let verdicts: Vec<_> = said.iter().map(|row| (&row["verdict"], row.get("reason"))).collect();
    let (reject, keep) = (&json!("reject"), &json!("keep"));
    assert_eq!(
        verdicts,
        [(reject, Some(&json!("blurred"))), (keep, None), (reject, None), (&Value::Null, None)]
    );
    let rejected = said[0]["file_name"].as_str().unwrap();
    let row = lines("metadata.jsonl").into_iter().find(|row| row["file_name"] == *first).unwrap();
    assert_eq!(row["prompt"], "a wolf of ink");
    let trained = std::fs::read_to_string(out.join("train/ERM-q-0/train.json")).unwrap();
    let kept = said[1]["file_name"].as_str().unwrap();
    assert!(!trained.contains(rejected) && trained.contains(kept), "{rejected} is left out, {kept} is not");
    assert!(!out.join("progress.json").exists() && !out.join("pause").exists());
}
