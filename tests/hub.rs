//! `kaleid fetch` and a server that speaks the hub's routes: well, slowly, with lies, or not at all.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const KEY: &str = "hf_very_secret";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What the hub names contents by: large ones SHA-256, small ones git's hash.
fn etag(bytes: &[u8]) -> String {
    if bytes.len() > 1000 {
        return hex(&Sha256::digest(bytes));
    }
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

/// What a server does that is not what it should.
#[derive(Clone, Default)]
struct Faults {
    /// Bodies that break off in the middle, of the next so many.
    breaks: usize,
    /// Statuses of the next answers, and headers.
    statuses: Vec<(u16, &'static str)>,
    /// Ranges are ignored.
    no_ranges: bool,
    /// Bytes too many in each body.
    longer: usize,
    /// Other contents than were named.
    other: bool,
    /// Ranges are refused with 403.
    no_signed_ranges: bool,
}

struct Hub {
    address: String,
    files: BTreeMap<String, Vec<u8>>,
    faults: Mutex<Faults>,
    /// Lines of requests, with Range and whether the key came.
    asked: Mutex<Vec<String>>,
}

impl Hub {
    /// Serves until the test ends; large files come from another port.
    fn new(files: &[(&str, Vec<u8>)]) -> Arc<Hub> {
        let [main, bridge] = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = format!("http://{}", main.local_addr().unwrap());
        let elsewhere = format!("http://{}", bridge.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
        let hub = Arc::new(Hub { address, files, faults: Mutex::default(), asked: Mutex::default() });
        for (listener, is_main) in [(main, true), (bridge, false)] {
            let (hub, elsewhere) = (hub.clone(), elsewhere.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (hub, elsewhere) = (hub.clone(), elsewhere.clone());
                    std::thread::spawn(move || hub.serve(stream.unwrap(), is_main, &elsewhere));
                }
            });
        }
        hub
    }

    fn serve(&self, mut stream: TcpStream, is_main: bool, elsewhere: &str) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_string());
        }
        let (method, path) =
            line.trim().split_once(' ').map(|(m, rest)| (m, rest.split(' ').next().unwrap()))?;
        let range = headers.get("range").cloned().unwrap_or_default();
        let key = if headers.contains_key("authorization") { " key" } else { "" };
        let side = if is_main { "" } else { "elsewhere " };
        self.asked.lock().unwrap().push(format!("{side}{method} {path} {range}{key}"));
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            (!faults.statuses.is_empty()).then(|| faults.statuses.remove(0))
        };
        let mut answer = |status: u16, headers: &str, body: &[u8], length: usize| {
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
            if method != "HEAD" {
                let _ = stream.write_all(body);
            }
        };
        if let Some((status, headers)) = fault {
            answer(status, headers, b"no", 2);
            return None;
        }
        if path.starts_with("/api/") {
            let files: Vec<Value> = self.files.keys().map(|name| json!({"rfilename": name})).collect();
            let info = json!({"sha": COMMIT, "siblings": files, "tags": ["license:openrail"]}).to_string();
            match path.starts_with("/api/models/me/model/revision/main")
                || path.contains("/datasets/me/data/")
            {
                true => answer(200, "", info.as_bytes(), info.len()),
                false => answer(404, "X-Error-Code: RepoNotFound\r\n", b"", 0),
            }
            return None;
        }
        let name = path.split_once(&format!("{COMMIT}/")).map(|(_, name)| name)?;
        let Some(bytes) = self.files.get(name) else {
            answer(404, "X-Error-Code: EntryNotFound\r\n", b"", 0);
            return None;
        };
        let etag = etag(bytes);
        let large = bytes.len() > 1000;
        if is_main && large {
            let linked = format!(
                "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\nETag: \"of the bridge\"\r\nLocation: {elsewhere}{path}\r\n",
                bytes.len()
            );
            answer(302, &linked, b"", 0);
            return None;
        }
        let faults = self.faults.lock().unwrap().clone();
        let start: usize =
            range.strip_prefix("bytes=").map_or(0, |r| r.trim_end_matches('-').parse().unwrap());
        if start > 0 && faults.no_signed_ranges {
            answer(403, "", b"Auth failed: invalid range", 26);
            return None;
        }
        let start = if faults.no_ranges { 0 } else { start };
        let mut body = bytes[start..].to_vec();
        if faults.other {
            body[0] ^= 1;
        }
        body.extend(vec![7; faults.longer]);
        let length = body.len();
        if faults.breaks > 0 && method == "GET" && large {
            self.faults.lock().unwrap().breaks -= 1;
            body.truncate(length / 2);
        }
        let headers = match start {
            0 => format!("ETag: \"{etag}\"\r\n"),
            _ => format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len()),
        };
        answer(if start > 0 { 206 } else { 200 }, &headers, &body, length);
        None
    }

    fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
        self.asked.lock().unwrap().clear();
    }

    fn asked(&self, what: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(what)).cloned().collect()
    }
}

fn kaleid(hub: &Hub, home: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
    for name in
        ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
    {
        command.env_remove(name);
    }
    let command = command.args(args).env("HF_ENDPOINT", &hub.address).env("HF_HOME", home);
    command.envs(env.iter().copied()).output().unwrap()
}

/// What `kaleid fetch` prints, or the line of its error.
fn fetch(hub: &Hub, home: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
    let out = kaleid(hub, home, &[&["fetch"], args].concat(), env);
    let [said, error] =
        [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap().trim().to_string());
    assert!(!error.contains(KEY), "{error}");
    match out.status.code() {
        Some(0) => Ok(said),
        Some(2) => Err(error.lines().last().unwrap_or_default().to_string()),
        other => panic!("{other:?}: {error}"),
    }
}

fn noise(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn model() -> Arc<Hub> {
    Hub::new(&[
        ("README.md", b"a model".to_vec()),
        ("config.json", br#"{"a": 1}"#.to_vec()),
        ("tokenizer.json", br#"{"b": 2}"#.to_vec()),
        ("model.safetensors", noise(3_000_000)),
        ("pytorch_model.bin", noise(2000)),
        ("flax_model.msgpack", noise(2000)),
        ("onnx/model.onnx", noise(2000)),
    ])
}

#[test]
fn what_a_program_opens_is_fetched_once_into_the_layout_that_others_use() {
    let (hub, home) = (model(), tempfile::tempdir().unwrap());
    let dry = fetch(&hub, home.path(), &["hf:me/model", "--dry-run"], &[]).unwrap();
    assert!(
        dry.contains("3.0 MB  model.safetensors") && dry.ends_with("3.0 MB to fetch; licence: openrail"),
        "{dry}"
    );
    assert!(!dry.contains("pytorch_model.bin") && !dry.contains("onnx"), "{dry}");
    assert!(hub.asked("GET /me").is_empty(), "nothing is fetched");

    let path = fetch(&hub, home.path(), &["hf:me/model"], &[("HF_TOKEN", KEY)]).unwrap();
    let folder = home.path().join("hub/models--me--model");
    assert_eq!(Path::new(&path), folder.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let files: Vec<String> =
        ["config.json", "model.safetensors", "tokenizer.json"].map(String::from).to_vec();
    let mut there: Vec<String> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, files);
    for file in &files {
        let bytes = std::fs::read(Path::new(&path).join(file)).unwrap();
        assert_eq!(bytes, hub.files[file]);
        let to = std::fs::read_link(Path::new(&path).join(file)).unwrap();
        assert_eq!(to, Path::new("../../blobs").join(etag(&bytes)));
    }
    // The key goes to the hub and stays there.
    let mut to_hub = hub.asked("GET /me").into_iter().filter(|line| !line.starts_with("elsewhere"));
    assert!(to_hub.all(|line| line.ends_with(" key")), "{:?}", hub.asked(""));
    assert!(!hub.asked("elsewhere").is_empty() && hub.asked("elsewhere").iter().all(|l| !l.contains("key")));

    // All is there: only the revision is asked for; without a network, not even that.
    hub.set(Faults::default());
    assert_eq!(fetch(&hub, home.path(), &["hf:me/model"], &[]).unwrap(), path);
    assert_eq!(hub.asked("").len(), 1, "{:?}", hub.asked(""));
    hub.set(Faults::default());
    assert_eq!(fetch(&hub, home.path(), &["hf:me/model"], &[("HF_HUB_OFFLINE", "1")]).unwrap(), path);
    assert!(hub.asked("").is_empty());
    let one = fetch(&hub, home.path(), &["hf:me/model:config.json"], &[("HF_HUB_OFFLINE", "1")]).unwrap();
    assert!(one.ends_with("config.json"));
    let none = fetch(&hub, home.path(), &["hf:me/other"], &[("HF_HUB_OFFLINE", "1")]).unwrap_err();
    assert!(none.contains("hf:me/other: not in the cache"), "{none}");
}

#[test]
fn what_breaks_off_goes_on_from_there() {
    let (hub, home) = (model(), tempfile::tempdir().unwrap());
    hub.set(Faults { breaks: 3, ..Faults::default() });
    let path = fetch(&hub, home.path(), &["hf:me/model"], &[]).unwrap();
    assert_eq!(std::fs::read(Path::new(&path).join("model.safetensors")).unwrap(), noise(3_000_000));
    assert!(hub.asked("bytes=1500000-").len() == 2, "{:?}", hub.asked("safetensors"));

    // Not in this run, but in the next.
    let home = tempfile::tempdir().unwrap();
    hub.set(Faults { breaks: 100, no_ranges: true, ..Faults::default() });
    let broken = fetch(&hub, home.path(), &["hf:me/model:model.safetensors"], &[]).unwrap_err();
    assert!(broken.contains("broke off 5 times, with 1500000 of 3000000 bytes"), "{broken}");
    hub.set(Faults::default());
    let path = fetch(&hub, home.path(), &["hf:me/model:model.safetensors"], &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), noise(3_000_000));
    assert_eq!(hub.asked("elsewhere GET")[0].split(' ').nth(3), Some("bytes=1500000-"));

    // A bridge that refuses ranges gives the whole.
    let home = tempfile::tempdir().unwrap();
    hub.set(Faults { breaks: 1, no_signed_ranges: true, ..Faults::default() });
    let path = fetch(&hub, home.path(), &["hf:me/model:model.safetensors"], &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), noise(3_000_000));
}

#[test]
fn lies_are_found_and_leave_nothing_that_looks_whole() {
    let (hub, home) = (model(), tempfile::tempdir().unwrap());
    for (faults, says) in [
        (Faults { longer: 5, ..Faults::default() }, "sends more bytes than it said"),
        (Faults { other: true, ..Faults::default() }, "other contents came than the hub names"),
    ] {
        hub.set(faults);
        let error = fetch(&hub, home.path(), &["hf:me/model:model.safetensors"], &[]).unwrap_err();
        assert!(error.contains("hf:me/model:model.safetensors: ") && error.contains(says), "{error}");
        assert!(!home.path().join("hub/models--me--model/snapshots").exists());
    }
    hub.set(Faults::default());
    let path = fetch(&hub, home.path(), &["hf:me/model:model.safetensors"], &[]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), noise(3_000_000));
}

#[test]
fn every_refusal_says_what_to_do() {
    let (hub, home) = (model(), tempfile::tempdir().unwrap());
    let none: &[(&str, &str)] = &[];
    let with_key: &[(&str, &str)] = &[("HF_TOKEN", KEY)];
    for (status, headers, env, says) in [
        (401, "", none, "no repository me/model there, or it is private: set HF_TOKEN"),
        (
            401,
            "X-Error-Message: Invalid credentials in Authorization header\r\n",
            with_key,
            "HF_TOKEN is not valid",
        ),
        (401, "X-Error-Code: GatedRepo\r\n", none, "me/model is gated: accept its licence at"),
        (403, "X-Error-Code: GatedRepo\r\n", with_key, "me/model is gated"),
        (403, "", none, "access is refused (403): no"),
        (404, "X-Error-Code: RevisionNotFound\r\n", none, "me/model has no revision main"),
        (418, "", none, "it answers 418"),
    ] {
        hub.set(Faults { statuses: vec![(status, headers)], ..Faults::default() });
        let error = fetch(&hub, home.path(), &["hf:me/model"], env).unwrap_err();
        assert!(error.contains(says), "{status}: {error}");
        assert_eq!(hub.asked("").len(), 1, "{status} is not asked again");
    }
    // Busy for a while.
    let busy = vec![(429, "ratelimit: \"resolvers\";r=0;t=0\r\n"), (503, ""), (500, "Retry-After: 0\r\n")];
    hub.set(Faults { statuses: busy, ..Faults::default() });
    fetch(&hub, home.path(), &["hf:me/model:config.json"], none).unwrap();
    let error = fetch(&hub, home.path(), &["hf:me/model:no.json"], none).unwrap_err();
    assert!(error.contains("hf:me/model has no file no.json"), "{error}");
    let error = fetch(&hub, home.path(), &["hf:me/nothing"], none).unwrap_err();
    assert!(error.contains("no repository me/nothing there"), "{error}");
    let error = fetch(&hub, home.path(), &["sd16"], none).unwrap_err();
    assert!(error.contains("neither hf:OWNER/NAME nor one of sd15, "), "{error}");
}

#[test]
fn a_painter_is_its_parts_and_shards_come_by_their_index() {
    let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let hub = Hub::new(&[
        ("model_index.json", b"{}".to_vec()),
        ("v1-5-pruned.safetensors", noise(5000)),
        ("unet/config.json", b"{}".to_vec()),
        ("unet/diffusion_pytorch_model.safetensors", noise(4000)),
        ("unet/diffusion_pytorch_model.fp16.safetensors", noise(2000)),
        ("unet/diffusion_pytorch_model.bin", noise(4000)),
        ("vae/config.json", b"{}".to_vec()),
        ("vae/diffusion_pytorch_model.safetensors", noise(3000)),
        ("text_encoder/config.json", b"{}".to_vec()),
        ("text_encoder/model.safetensors.index.json", index.to_vec()),
        ("text_encoder/model-00001-of-00002.safetensors", noise(1500)),
        ("text_encoder/model-00002-of-00002.safetensors", noise(1600)),
        ("tokenizer/merges.txt", b"#".to_vec()),
        ("scheduler/scheduler_config.json", b"{}".to_vec()),
        ("safety_checker/model.safetensors", noise(9000)),
    ]);
    let home = tempfile::tempdir().unwrap();
    let said = fetch(&hub, home.path(), &["hf:me/model", "--json"], &[]).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let mut files: Vec<&str> =
        said["files"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    files.sort_unstable();
    let want = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(files, want);
    let folder = Path::new(said["path"].as_str().unwrap());
    assert_eq!(
        std::fs::read(folder.join("text_encoder/model-00002-of-00002.safetensors")).unwrap(),
        noise(1600)
    );
    // A name does wherever a path does; this one leads to configurations without sense.
    let out = kaleid(
        &hub,
        home.path(),
        &["generate", "--model", "hf:me/model", "--prompt", "a", "--out", "o"],
        &[],
    );
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(error.contains("snapshots") && out.status.code() == Some(2), "{error}");
}

#[test]
fn a_data_set_becomes_a_folder_of_images() {
    let table = std::fs::read("tests/data/parquet/small.parquet").unwrap();
    let hub = Hub::new(&[("README.md", b"x".to_vec()), ("data/train-00000-of-00001.parquet", table)]);
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("small");
    let said =
        fetch(&hub, home.path(), &["hf:datasets/me/data", "--out", out.to_str().unwrap()], &[]).unwrap();
    assert_eq!(said, out.to_str().unwrap());
    assert!(out.join("photo/gui_tar/000005.png").exists());
    assert!(home.path().join("hub/datasets--me--data/refs/main").exists());
    let error = fetch(&hub, home.path(), &["hf:me/model", "--out", "o"], &[]).unwrap_err();
    assert!(error.contains("--out is for one data set"), "{error}");
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for_forever() {
    // A server that answers and then is silent.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files = [("config.json".to_string(), vec![1])].into();
    let hub = Hub { address, files, faults: Mutex::default(), asked: Mutex::default() };
    std::thread::spawn(move || {
        let mut held = vec![];
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1000];
            let n = stream.read(&mut request).unwrap();
            let text = String::from_utf8_lossy(&request[..n]).into_owned();
            let info = json!({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}).to_string();
            let head = |length: usize| {
                format!(
                    "HTTP/1.1 200 X\r\nETag: \"abc\"\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                )
            };
            let whole = match text.starts_with("GET /api/") {
                true => head(info.len()) + &info,
                false => head(100),
            };
            stream.write_all(whole.as_bytes()).unwrap();
            if text.starts_with("GET /me") {
                held.push(stream);
            }
        }
    });
    let home = tempfile::tempdir().unwrap();
    let error = fetch(&hub, home.path(), &["hf:me/model"], &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]).unwrap_err();
    assert!(error.contains("broke off 5 times") && error.contains("nothing came for 1 s"), "{error}");
}
