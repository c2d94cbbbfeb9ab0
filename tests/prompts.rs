//! `kaleid prompts`: how many prompts there are and what they name, and a language model's server that answers well, badly,
//! late or not at all.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kaleid::core::GpuOptions;
use kaleid::data::chosen::painted_from;
use kaleid::paint::picture::{Picture, read_pictures};
use kaleid::paint::prompts::{Balance, Grammar, Llm, Prompting, Server, Summary, Writing, may_fit, run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KEY: &str = "sk-very-secret-0123456789";

/// A data set of empty files: `[domain, dogs, houses]`.
fn data(root: &Path, domains: &[(&str, [usize; 2])]) -> PathBuf {
    let root = root.join("data");
    for (domain, counts) in domains {
        for (class, count) in ["dog", "Alarm_Clock"].iter().zip(counts) {
            let folder = root.join(domain).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            (0..*count).for_each(|i| std::fs::write(folder.join(format!("{i}.png")), "").unwrap());
        }
    }
    root
}

fn pacs(root: &Path) -> PathBuf {
    data(root, &[("art_painting", [6, 4]), ("photo", [20, 4]), ("sketch", [5, 5])])
}

fn rows(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("prompts.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn domains(out: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(out.join("domains.json")).unwrap()).unwrap()
}

fn by_folder(jobs: &[Picture]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for job in jobs {
        *counts.entry(job.file_name.rsplit_once('/').unwrap().0.to_string()).or_default() += 1;
    }
    counts
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(folder, n)| (folder.to_string(), *n)).collect()
}

fn writing(share: f64, new: usize) -> Writing {
    Writing { share, new, ..Writing::default() }
}

#[test]
fn the_template_writes_for_every_image_to_come() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let config =
        Prompting { hold_out: vec!["sketch".into()], seed: 3, ..Prompting::new(pacs(temp.path()), &out) };
    let general = Grammar::general();
    let summary = run(&config, &Llm::Template, &general, &may_fit).unwrap();
    let new = vec!["watercolor".to_string(), "3d_render".to_string()];
    assert_eq!(summary, Summary { prompts: 35, new_domains: new, fallbacks: 0, copies: 0 });

    // Half of 10 and of 24, and half of their mean for each new domain; classes as the originals have them.
    let jobs = read_pictures(&out.join("prompts.jsonl")).unwrap();
    let expected = [
        ("art_painting/Alarm_Clock", 2),
        ("art_painting/dog", 3),
        ("photo/Alarm_Clock", 2),
        ("photo/dog", 10),
        ("watercolor/Alarm_Clock", 2),
        ("watercolor/dog", 7),
        ("3d_render/Alarm_Clock", 2),
        ("3d_render/dog", 7),
    ];
    assert_eq!(by_folder(&jobs), counts(&expected));
    let names = [
        ("art_painting", "art painting"),
        ("photo", "photo"),
        ("watercolor", "watercolor"),
        ("3d_render", "3D render"),
    ];
    let name = |folder: &str| names.iter().find(|n| n.0 == folder).unwrap().1;
    for (job, row) in jobs.iter().zip(rows(&out)) {
        let (domain, class) = (job.domain.as_ref().unwrap(), job.class.as_ref().unwrap());
        assert!(job.file_name.starts_with(&format!("{domain}/{class}/000")), "{}", job.file_name);
        let lower = job.prompt.to_lowercase();
        assert!(lower.contains(&name(domain).to_lowercase()), "{}", job.prompt);
        assert!(lower.contains(&class.to_lowercase().replace('_', " ")), "{}", job.prompt);
        assert!((30..=60).contains(&job.prompt.split_whitespace().count()), "{}", job.prompt);
        assert!(row["written_by"] == "template" && row.get("fallback").is_none(), "{row}");
    }
    let different = |values: Vec<String>| values.iter().collect::<HashSet<_>>().len();
    assert_eq!(different(jobs.iter().map(|j| j.seed.unwrap().to_string()).collect()), 35);
    assert_eq!(different(jobs.iter().map(|j| j.prompt.clone()).collect()), 35);

    // The held-out domain is in the list of domains, and nowhere else.
    let text = std::fs::read_to_string(out.join("prompts.jsonl")).unwrap();
    assert!(!text.to_lowercase().contains("sketch"));
    assert_eq!(
        domains(&out),
        json!({
            "original": [{"folder": "art_painting", "name": "art painting"}, {"folder": "photo", "name": "photo"}],
            "held_out": [{"folder": "sketch", "name": "sketch"}],
            "new": [{"folder": "watercolor", "name": "watercolor", "named_by": "template"},
                {"folder": "3d_render", "name": "3D render", "named_by": "template"}],
            "written_by": "template"
        })
    );

    // The same again is the same bytes; more images leave the prompts of the others as they are.
    let again = Prompting { out: temp.path().join("again"), ..config };
    run(&again, &Llm::Template, &general, &may_fit).unwrap();
    assert_eq!(std::fs::read_to_string(again.out.join("prompts.jsonl")).unwrap(), text);
    let more = Prompting { out: temp.path().join("more"), writing: writing(1.0, 3), ..again };
    run(&more, &Llm::Template, &general, &may_fit).unwrap();
    let all = read_pictures(&more.out.join("prompts.jsonl")).unwrap();
    assert!(all.len() > jobs.len() && jobs.iter().all(|job| all.contains(job)));
    // Another seed is other prompts and other noise.
    let other = Prompting { out: temp.path().join("other"), writing: writing(0.5, 2), seed: 4, ..more };
    run(&other, &Llm::Template, &general, &may_fit).unwrap();
    let others = read_pictures(&other.out.join("prompts.jsonl")).unwrap();
    assert!(jobs.iter().zip(&others).all(|(a, b)| a.seed != b.seed));

    // With the flag, the style of the test is one more.
    let writing = Writing { include_test_style: true, ..writing(0.5, 2) };
    let with = Prompting { out: temp.path().join("with"), writing, ..other };
    run(&with, &Llm::Template, &general, &may_fit).unwrap();
    let found = by_folder(&read_pictures(&with.out.join("prompts.jsonl")).unwrap());
    assert_eq!([found["sketch/dog"], found["sketch/Alarm_Clock"]], [2, 3]);
}

#[test]
fn what_is_rare_gets_more_images_and_their_number_stays() {
    let temp = tempfile::tempdir().unwrap();
    let data = pacs(temp.path());
    let general = Grammar::general();
    let of = |balance: Balance| {
        let out = temp.path().join(format!("{balance:?}"));
        let writing = Writing { balance, ..writing(0.5, 1) };
        let config = Prompting { hold_out: vec!["sketch".into()], writing, ..Prompting::new(&data, &out) };
        run(&config, &Llm::Template, &general, &may_fit).unwrap();
        let folders = by_folder(&read_pictures(&out.join("prompts.jsonl")).unwrap());
        ["art_painting", "photo", "watercolor"].map(|domain| {
            ["Alarm_Clock", "dog"]
                .map(|class| folders.get(&format!("{domain}/{class}")).copied().unwrap_or(0))
        })
    };
    // There are 4 and 6 of art, 4 and 20 photos.
    assert_eq!(of(Balance::None), [[2, 3], [2, 10], [2, 7]]);
    assert_eq!(of(Balance::Class), [[4, 1], [12, 0], [5, 4]]);
    assert_eq!(of(Balance::Domain), [[6, 10], [0, 1], [2, 7]]);
    assert_eq!(of(Balance::Both), [[9, 7], [1, 0], [5, 4]]);
}

#[test]
fn prompts_of_ones_own_name_class_and_domain() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out, file) = (pacs(temp.path()), temp.path().join("out"), temp.path().join("templates.txt"));
    let general = Grammar::general();
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let writing = Writing { templates: Some(file.clone()), ..writing(0.5, 1) };
        let config = Prompting { hold_out: vec!["sketch".into()], writing, ..Prompting::new(&data, &out) };
        run(&config, &Llm::Template, &general, &may_fit)
    };
    write("# plain\n\na {domain} of a {class}\n{class}, {domain}, detailed\n").unwrap();
    let prompts: HashSet<String> =
        read_pictures(&out.join("prompts.jsonl")).unwrap().into_iter().map(|p| p.prompt).collect();
    for prompt in ["a photo of a dog", "dog, photo, detailed", "Alarm Clock, art painting, detailed"] {
        assert!(prompts.contains(prompt), "no {prompt} in {prompts:?}");
    }
    for (text, says) in [
        ("a {domain}\n", "templates.txt, line 1: a prompt must hold {class} and {domain}"),
        ("# nothing\n", "templates.txt: no prompts in it"),
    ] {
        let error = format!("{:#}", write(text).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn new_names_are_new() {
    let temp = tempfile::tempdir().unwrap();
    let root = data(temp.path(), &[("Water-Color", [2, 2]), ("sketch", [2, 2]), ("odd_domain", [2, 2])]);
    let config = |hold_out: &[&str], new, names: &[&str]| Prompting {
        hold_out: hold_out.iter().map(|s| s.to_string()).collect(),
        writing: Writing { new, domains: names.iter().map(|s| s.to_string()).collect(), ..writing(0.5, 2) },
        ..Prompting::new(&root, temp.path().join("out"))
    };
    let new = |config: Prompting| {
        run(&config, &Llm::Template, &Grammar::general(), &may_fit).map(|s| s.new_domains)
    };
    let whole = new(config(&["sketch"], 15, &[])).unwrap();
    assert_eq!(whole[..2], ["3d_render", "pixel_art"]);
    assert!(!whole.iter().any(|n| n.contains("sketch") || n == "watercolor"), "{whole:?}");
    assert_eq!(new(config(&["sketch"], 0, &[])).unwrap(), [""; 0]);
    assert_eq!(
        new(config(&[], 2, &["Ukiyo-e prints", "3D render"])).unwrap(),
        ["Ukiyo_e_prints", "3D_render"]
    );
    let jobs = read_pictures(&temp.path().join("out/prompts.jsonl")).unwrap();
    for job in &jobs {
        let name = match job.domain.as_deref().unwrap() {
            "Ukiyo_e_prints" => "ukiyo e prints",
            "Water-Color" => "watercolor",
            other => &other.to_lowercase().replace('_', " "),
        };
        assert!(job.prompt.to_lowercase().contains(name), "{}", job.prompt);
    }
    let error = |config: Prompting| new(config).unwrap_err().to_string();
    for (names, part) in [
        (vec!["Sketch"], "the domain sketch is held out"),
        (vec!["pencil sketches"], "it has the name of the held-out domain sketch in it"),
        (vec!["odd domain"], "there is a domain odd_domain already"),
        (vec!["mosaic", "Mosaic"], "there is a domain mosaic already"),
        (vec!["!?"], "no letter or digit"),
    ] {
        let line = error(config(&["sketch"], 2, &names));
        assert!(line.contains(part) && line.ends_with("choose another name"), "{line}");
    }
    assert!(error(config(&["sketch"], 99, &[])).contains("only"));
    assert!(
        error(config(&["clay"], 2, &[]))
            .contains("no domain clay: there are Water-Color, odd_domain, sketch")
    );
    assert!(
        error(config(&["sketch", "odd_domain", "Water-Color"], 2, &[])).contains("every domain is held out")
    );
    assert!(error(Prompting { writing: writing(0.0, 2), ..config(&[], 2, &[]) }).contains("a share of 0"));
    assert!(error(Prompting { writing: writing(0.01, 2), ..config(&[], 2, &[]) }).contains("gives no image"));
}

#[test]
fn the_demo_speaks_its_grammar() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("data");
    let captions: Value = serde_json::from_str(include_str!("../weights/captions.json")).unwrap();
    let classes = captions["classes"].as_array().unwrap();
    for domain in ["clipart", "noto", "twemoji", "openmoji"] {
        for class in classes {
            let folder = root.join(domain).join(class["folder"].as_str().unwrap());
            std::fs::create_dir_all(&folder).unwrap();
            (0..20).for_each(|i| std::fs::write(folder.join(format!("{i}.png")), "").unwrap());
        }
    }
    let out = temp.path().join("out");
    let config = Prompting {
        hold_out: vec!["openmoji".into()],
        writing: writing(0.5, 3),
        ..Prompting::new(&root, &out)
    };
    let summary = run(&config, &Llm::Template, &Grammar::demo(), &may_fit).unwrap();
    assert_eq!(summary.new_domains, ["fluent3d", "fluentflat", "fluenthc"]);
    assert_eq!(summary.prompts, 6 * 70);

    let words = |text: &str| -> BTreeSet<String> {
        text.to_lowercase().split(|c: char| !c.is_alphanumeric()).map(str::to_string).collect()
    };
    fn texts(value: &Value, all: &mut String) {
        match value {
            Value::String(text) => *all += &format!(" {text}"),
            Value::Array(list) => list.iter().for_each(|v| texts(v, all)),
            Value::Object(map) => map.values().for_each(|v| texts(v, all)),
            _ => {}
        }
    }
    let mut known = String::new();
    ["domains", "classes", "templates", "fillers"].iter().for_each(|key| texts(&captions[key], &mut known));
    let known = words(&known);
    let mut without_concept = 0;
    let jobs = read_pictures(&out.join("prompts.jsonl")).unwrap();
    for job in &jobs {
        let strange: Vec<_> = words(&job.prompt).difference(&known).cloned().collect();
        assert_eq!(strange, [""; 0], "{}", job.prompt);
        let class = classes.iter().find(|c| c["folder"] == **job.class.as_ref().unwrap()).unwrap();
        assert!(job.prompt.to_lowercase().contains(class["phrase"].as_str().unwrap()), "{}", job.prompt);
        assert!((30..=60).contains(&job.prompt.split_whitespace().count()), "{}", job.prompt);
        let concepts = class["concepts"].as_array().unwrap().iter().filter_map(Value::as_str);
        without_concept += usize::from(!concepts.into_iter().any(|c| job.prompt.to_lowercase().contains(c)));
    }
    let share = without_concept as f64 / jobs.len() as f64;
    assert!((0.55..0.8).contains(&share), "{share} of the prompts name no concept");
}

/// What the test server does with a request.
enum Answer {
    /// Status, more headers, body.
    Http(u16, &'static str, String),
    /// A body, compressed.
    Gzip(String),
    /// A body for a request without seed and temperature, else an error.
    IfPlain(String),
    /// Closes the connection.
    Close,
    /// Says nothing for a while.
    Silence,
}

/// A chat completion.
fn says(text: impl Into<String>) -> Answer {
    let message = json!({"role": "assistant", "content": text.into()});
    Answer::Http(200, "", json!({"choices": [{"index": 0, "message": message}]}).to_string())
}

/// Bytes as gzip, in one block that is not compressed.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u16;
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    out.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    out.extend(bytes);
    out.extend(crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes).to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

/// The body of a chat completion whose message has these fields.
fn completion(message: Value, ended: &str) -> String {
    json!({"choices": [{"message": message, "finish_reason": ended}]}).to_string()
}

/// What an able model would reply.
fn good(request: &str) -> Answer {
    if request.contains("help me generate a few more related domains") {
        return says(
            "Sure:\n1. **Photo**: there already\n2. Sketch\n3. Pencil sketch\n4. Stained glass - windows\n5. Ukiyo-e\n6. Mosaic",
        );
    }
    says(description(request))
}

fn description(request: &str) -> String {
    let (class, rest) = request.split_once("[class_name] = ").unwrap().1.split_once("; ").unwrap();
    let domain = rest.split_once("[domain style] = ").unwrap().1.split_once("'.").unwrap().0;
    // No two are equal.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("\"A **{class}** in {domain} style{} {}.\"", " softly".repeat(30), NUMBER.fetch_add(1, Relaxed))
}

/// Requests that a server saw: the texts, and the whole heads.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A server on this machine that gives the n-th request, by its text, an answer.
fn serve(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Seen::default();
    let (all, answer) = (seen.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (all, answer, mut stream) = (all.clone(), answer.clone(), stream.unwrap());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
                }
                let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_string();
                let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                let asked: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!((&asked["model"], &asked["stream"]), (&json!("tiny"), &json!(false)));
                let content = &asked["messages"][0]["content"];
                let text = match content.as_str() {
                    Some(text) => text.to_string(),
                    None => {
                        assert_eq!([&content[0]["type"], &content[1]["type"]], ["text", "image_url"]);
                        let [text, uri] = [&content[0]["text"], &content[1]["image_url"]["url"]];
                        format!("{}\n{}", text.as_str().unwrap(), uri.as_str().unwrap())
                    }
                };
                let n = {
                    let mut all = all.lock().unwrap();
                    all.push((text.clone(), head));
                    all.len() - 1
                };
                let mut send = |status: u16, headers: &str, body: &[u8]| {
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status} Status\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(&[head.as_bytes(), body].concat());
                };
                let is_plain = asked.get("temperature").is_none() && asked.get("seed").is_none();
                match answer(n, &text) {
                    Answer::Http(status, headers, body) => send(status, headers, body.as_bytes()),
                    Answer::Gzip(body) => send(200, "content-encoding: gzip\r\n", &gzip(body.as_bytes())),
                    Answer::IfPlain(body) if is_plain => send(200, "", body.as_bytes()),
                    Answer::IfPlain(_) => {
                        send(400, "", br#"{"error": {"message": "Unsupported value: 'temperature'"}}"#)
                    }
                    Answer::Close => {}
                    Answer::Silence => std::thread::sleep(Duration::from_secs(2)),
                }
            });
        }
    });
    (base, seen)
}

/// PACS with sketch held out, written by the server at `base`: 16 prompts with two new domains.
fn served(temp: &Path, base: &str) -> (Prompting, Llm) {
    let mut server = Server::new(base, "tiny", Some(KEY)).unwrap();
    server.backoff = Duration::from_millis(1);
    server.timeout = Duration::from_millis(500);
    let root = data(temp, &[("photo", [4, 4]), ("cartoon", [4, 4]), ("sketch", [1, 1])]);
    let prompting = Prompting { hold_out: vec!["sketch".into()], ..Prompting::new(root, temp.join("out")) };
    (prompting, Llm::Server(server))
}

/// Every file below a folder, as one text.
fn everything(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let text = |path: PathBuf| {
        if path.is_dir() { everything(&path) } else { std::fs::read_to_string(path).unwrap() }
    };
    entries.map(text).collect()
}

#[test]
fn a_good_server_is_asked_once_for_each_prompt() {
    let temp = tempfile::tempdir().unwrap();
    let (base, seen) = serve(|_, request| good(request));
    let (config, llm) = served(temp.path(), &base);
    let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    let new = vec!["Stained_glass".to_string(), "Ukiyo_e".to_string()];
    assert_eq!(summary, Summary { prompts: 16, new_domains: new, fallbacks: 0, copies: 0 });
    let requests = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(requests.len(), 17);
    assert!(requests[0].0.starts_with(
        "My dataset currently has these domains {cartoon, photo}, help me generate a few more related domains."
    ));
    assert!(
        requests
            .iter()
            .any(|r| r.0.starts_with("'[class_name] = Alarm Clock; [domain style] = Ukiyo-e'. I want to"))
    );
    assert!(!requests.iter().any(|r| r.0.to_lowercase().contains("sketch")), "the test stays unseen");
    assert!(requests.iter().all(|r| r.1.starts_with("POST /v1/chat/completions ")));
    assert!(requests.iter().all(|r| r.1.contains(&format!("Bearer {KEY}"))));

    let first = rows(&config.out);
    let row = first.iter().find(|row| row["file_name"] == "Ukiyo_e/dog/00001.png").unwrap();
    let prompt = row["prompt"].as_str().unwrap();
    assert!(prompt.starts_with("A dog in Ukiyo-e style softly") && prompt.ends_with('.'), "{prompt}");
    assert_eq!([&row["origin"], &row["tries"], &row["reason"]], [&json!("model"), &json!(1), &Value::Null]);
    assert!(first.iter().all(|row| row["written_by"] == "tiny" && row.get("fallback").is_none()));
    let listed = domains(&config.out);
    assert_eq!(listed["written_by"], "tiny");
    assert_eq!(listed["new"][1], json!({"folder": "Ukiyo_e", "name": "Ukiyo-e", "named_by": "tiny"}));
    assert!(!everything(&config.out).contains(KEY));

    // All of it is on disk: the second run asks nobody, and a run that lost one reply asks for that.
    std::fs::remove_file(config.out.join("prompts.jsonl")).unwrap();
    run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    assert_eq!((rows(&config.out), seen.lock().unwrap().len()), (first, 0));
    let reply = std::fs::read_dir(config.out.join("llm_cache")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(reply, "{\"reply").unwrap();
    run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[test]
fn captions_describe_originals_that_the_test_has_no_part_in() {
    let temp = tempfile::tempdir().unwrap();
    let (base, seen) = serve(|_, request| good(request));
    let (mut config, llm) = served(temp.path(), &base);
    // A colour for each domain and class; one picture is larger than what is sent.
    let places = ["photo", "cartoon", "sketch"].iter().flat_map(|d| ["dog", "Alarm_Clock"].map(|c| (*d, c)));
    let places: Vec<(&str, &str)> = places.collect();
    let colour = |place: (&str, &str)| 40 * places.iter().position(|p| *p == place).unwrap() as u8;
    for &(domain, class) in &places {
        for i in 0..if domain == "sketch" { 1 } else { 4 } {
            let [w, h] = if (domain, i) == ("photo", 0) { [1024, 16] } else { [20, 16] };
            let file = config.data.join(domain).join(class).join(format!("{i}.png"));
            image::RgbImage::from_pixel(w, h, image::Rgb([colour((domain, class)); 3])).save(file).unwrap();
        }
    }
    config.writing.captions = true;
    let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    assert_eq!((summary.prompts, summary.fallbacks), (16, 0));
    let requests = std::mem::take(&mut *seen.lock().unwrap());
    let sizes = requests.iter().skip(1).map(|(request, _)| {
        let (text, uri) = request.split_once("\ndata:image/png;base64,").unwrap();
        let picture = image::load_from_memory(&BASE64_STANDARD.decode(uri).unwrap()).unwrap().to_rgb8();
        let class = if text.contains("Alarm Clock") { "Alarm_Clock" } else { "dog" };
        let is_of = |domain| picture.get_pixel(0, 0).0 == [colour((domain, class)); 3];
        // A new domain has none of its own.
        let named = ["photo", "cartoon"].into_iter().find(|d| text.contains(&format!("style] = {d}'")));
        assert!(named.map_or(is_of("photo") || is_of("cartoon"), is_of), "{text}");
        picture.dimensions()
    });
    let sizes: BTreeSet<(u32, u32)> = sizes.collect();
    assert!(sizes.contains(&(20, 16)) && sizes.iter().all(|s| [(20, 16), (512, 8)].contains(s)), "{sizes:?}");

    // Each row says what was described; a training that is tested there leaves it out.
    for row in rows(&config.out) {
        let (described, name) = (row["described"].as_str().unwrap(), row["file_name"].as_str().unwrap());
        let (domain, class) = (name.split('/').next().unwrap(), name.split('/').nth(1).unwrap());
        assert!(described.contains(&format!("/{class}/")) && !described.contains("sketch"), "{described}");
        assert!(
            ["Stained_glass", "Ukiyo_e"].contains(&domain) || described.starts_with(domain),
            "{described}"
        );
    }
    std::fs::rename(config.out.join("prompts.jsonl"), config.out.join("metadata.jsonl")).unwrap();
    let left = painted_from(&config.out, &["photo".into()]).unwrap();
    assert!(left.len() >= 4 && left.values().all(|why| why.starts_with("painted from photo/")), "{left:?}");

    // All of it is on disk; a picture that has changed is described anew.
    std::fs::remove_file(config.out.join("domains.json")).unwrap();
    run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    assert_eq!(seen.lock().unwrap().len(), 0);
    for llm in ["template", "local:models/qwen"] {
        let writing = Writing { llm: llm.into(), captions: true, ..Writing::default() };
        let error = Llm::parse(&writing, &GpuOptions::default()).err().unwrap().to_string();
        assert!(error.contains("captions are written by a server"), "{error}");
    }
}

#[test]
fn replies_that_will_not_do_are_replaced_and_marked() {
    let temp = tempfile::tempdir().unwrap();
    // Clocks are always described badly, dogs the first time only.
    let asked = Mutex::new(HashSet::new());
    let (base, seen) = serve(move |n, request| match () {
        () if request.starts_with("My dataset") => says("I would rather not."),
        () if request.contains("= Alarm Clock") => match n % 4 {
            0 => says("An Alarm Clock."),
            1 => says(description(&request.replace("Alarm Clock", "cat"))),
            2 => says("A clock in [domain style] is what the user wants, so let me think of one."),
            _ => Answer::Http(200, "", "{\"choices\": [".into()),
        },
        () if asked.lock().unwrap().insert(request.to_string()) => says("No."),
        () => good(request),
    });
    let (config, llm) = served(temp.path(), &base);
    let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    let new = vec!["watercolor".to_string(), "3d_render".to_string()];
    assert_eq!(summary, Summary { prompts: 16, new_domains: new, fallbacks: 8, copies: 0 });
    assert_eq!(seen.lock().unwrap().len(), 2 + 8 * 2 + 8 + 4, "each useless reply is asked for once more");
    for row in rows(&config.out) {
        let replaced = row["class"] == "Alarm_Clock";
        assert_eq!(row["written_by"], if replaced { "template" } else { "tiny" }, "{row}");
        assert_eq!(row["fallback"] == true, replaced, "{row}");
        assert_eq!(row["origin"], if replaced { "template" } else { "model" }, "{row}");
        assert!(!replaced || row["tries"] == 2, "{row}");
        assert_eq!(row["reason"].is_string(), replaced, "{row}");
        assert!(
            row["prompt"]
                .as_str()
                .unwrap()
                .to_lowercase()
                .contains(&row["class"].as_str().unwrap().to_lowercase().replace('_', " "))
        );
    }
    assert_eq!(domains(&config.out)["new"][0]["named_by"], "template");
    assert_eq!(domains(&config.out)["new"][0]["fallback"], true);
}

/// A good reply to a request, as a text.
fn able(request: &str) -> String {
    match request.starts_with("My dataset") {
        true => r#"["stained glass", "ukiyo-e", "mosaic", "charcoal", "neon"]"#.into(),
        false => description(request),
    }
}

/// A name, and how a server of that kind answers a request.
type Form = (&'static str, fn(&str) -> Answer);

#[test]
fn good_replies_are_found_in_every_form_that_servers_give_them() {
    let forms: [Form; 6] = [
        ("gzip", |r| Answer::Gzip(completion(json!({"content": able(r)}), "stop"))),
        ("parts", |r| {
            let parts = json!([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": able(r)}]);
            Answer::Http(200, "", completion(json!({"content": parts}), "stop"))
        }),
        ("a stream", |r| {
            let piece = |text: &str| json!({"choices": [{"delta": {"content": text}}]}).to_string();
            let text = able(r);
            let (a, b) = text.split_at(20);
            let body = format!("data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", piece(a), piece(b));
            Answer::Http(200, "content-type: text/event-stream\r\n", body)
        }),
        ("reasoning", |r| {
            let text = format!("<think>Okay, sketch?</think>\n{}", able(r));
            Answer::Http(200, "", completion(json!({"content": text, "reasoning_content": "hm"}), "stop"))
        }),
        ("noise", |r| says(format!("Sure! Here it is:\n\n{}\n\nLet me know if you want more!", able(r)))),
        ("no temperature", |r| Answer::IfPlain(completion(json!({"content": able(r)}), "stop"))),
    ];
    for (form, answer) in forms {
        let temp = tempfile::tempdir().unwrap();
        let (base, _) = serve(move |_, request| answer(request));
        let (config, llm) = served(temp.path(), &base);
        let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
        assert_eq!((summary.prompts, summary.fallbacks, summary.copies), (16, 0, 0), "{form}");
        assert_eq!(summary.new_domains, ["stained_glass", "ukiyo_e"], "{form}");
    }
}

#[test]
fn bad_replies_are_never_used_and_the_reason_is_kept() {
    let forms: [Form; 6] = [
        ("the model refused: I can't help with that.", |_| {
            let message = json!({"content": null, "refusal": "I can't help with that."});
            Answer::Http(200, "", completion(message, "stop"))
        }),
        ("no text: it ran out of tokens (finish_reason length)", |_| {
            Answer::Http(200, "", completion(json!({"content": null, "reasoning_content": "Okay"}), "length"))
        }),
        ("cut off by the token limit", |r| {
            let cut: String = able(r).chars().take(180).collect();
            Answer::Http(200, "", completion(json!({"content": cut}), "length"))
        }),
        ("nothing but thoughts", |r| says(format!("<think> Okay, so maybe watercolor: {}", able(r)))),
        ("it does not name", |r| says(able(r).replace("dog", "cat").replace("Alarm Clock", "cat"))),
        ("too long for the text encoder", |r| {
            says(able(r).replace("softly softly", "chrysanthemum-embroidered pomegranate-coloured"))
        }),
    ];
    for (why, answer) in forms {
        let temp = tempfile::tempdir().unwrap();
        let by = move |request: &str| {
            if request.starts_with("My") { says(able(request)) } else { answer(request) }
        };
        let (base, _) = serve(move |_, request| by(request));
        let (config, llm) = served(temp.path(), &base);
        let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
        assert_eq!((summary.prompts, summary.fallbacks), (16, 16), "{why}");
        for row in rows(&config.out) {
            assert_eq!(
                [&row["origin"], &row["tries"], &row["fallback"]],
                [&json!("template"), &json!(2), &json!(true)]
            );
            assert!(row["reason"].as_str().unwrap().contains(why), "{why}: {row}");
        }
    }
}

#[test]
fn a_sentence_that_comes_again_is_asked_for_once_more_and_counted() {
    let temp = tempfile::tempdir().unwrap();
    let (base, seen) = serve(|_, request| match request.starts_with("My") {
        true => says(able(request)),
        // Without its number.
        false => says(
            description(request)
                .split(" softly")
                .collect::<Vec<_>>()
                .join(" so")
                .split_inclusive(" so")
                .take(30)
                .collect::<String>(),
        ),
    });
    let (config, llm) = served(temp.path(), &base);
    let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    // Two of each of four styles and two classes: one of each is the other's copy.
    assert_eq!((summary.prompts, summary.fallbacks, summary.copies), (16, 0, 8));
    assert_eq!(seen.lock().unwrap().len(), 1 + 16 + 8);
    let tries: Vec<Value> = rows(&config.out).iter().map(|row| row["tries"].clone()).collect();
    assert_eq!(tries.iter().filter(|t| **t == 2).count(), 8);
}

#[test]
fn a_server_of_this_machine_is_reached_past_a_proxy() {
    let temp = tempfile::tempdir().unwrap();
    let root = pacs(temp.path());
    let run = |base: &str, out: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
        command.args(["prompts", "--data", root.to_str().unwrap(), "--model", "tiny", "--share", "0.1"]);
        command.args(["--llm", base, "--out"]).arg(temp.path().join(out)).args(more);
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:9");
        }
        let done = command.output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (base, seen) = serve(|_, request| says(able(request)));
    assert_eq!(run(&base, "proxy", &[]).0, Some(0));
    assert!(!seen.lock().unwrap().is_empty());
    for wrong in ["0", "-1", "NaN"] {
        let said = run(&base, "wrong", &[&format!("--timeout={wrong}")]).1;
        assert!(said.contains("--timeout must be a number of seconds above 0"), "{wrong}: {said}");
    }
}

#[test]
fn a_server_that_stumbles_is_asked_again() {
    let temp = tempfile::tempdir().unwrap();
    let (base, seen) = serve(|n, request| match n {
        0 => Answer::Http(500, "", "oops".into()),
        1 => Answer::Close,
        2 => Answer::Silence,
        3 => Answer::Http(429, "retry-after: 1\r\n", r#"{"error": {"message": "slow down"}}"#.into()),
        _ => good(request),
    });
    let (config, llm) = served(temp.path(), &base);
    let config = Prompting { writing: writing(0.25, 2), ..config };
    let start = Instant::now();
    let summary = run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    assert_eq!((summary.prompts, summary.fallbacks), (8, 0));
    assert_eq!(seen.lock().unwrap().len(), 4 + 1 + 8);
    assert!(start.elapsed() >= Duration::from_millis(1500), "0.5 s of silence, 1 s that it asked for");
}

#[test]
fn a_server_that_does_not_work_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let error = |(config, llm): &(Prompting, Llm)| {
        let line = format!("{:#}", run(config, llm, &Grammar::general(), &may_fit).unwrap_err());
        assert!(!line.contains(KEY) && !line.contains('\n'), "{line}");
        assert!(!config.out.join("prompts.jsonl").exists());
        line
    };
    let with = |answer: fn(usize, &str) -> Answer, tries: usize, parts: &[&str]| {
        let (base, seen) = serve(answer);
        let line = error(&served(temp.path(), &base));
        assert!(line.starts_with(&format!("{base}/chat/completions: ")), "{line}");
        parts.iter().for_each(|part| assert!(line.contains(part), "{line}"));
        assert_eq!(seen.lock().unwrap().len(), tries, "{line}");
    };
    let refused = |_: usize, _: &str| {
        let body = json!({"error": {"message": format!("Incorrect key:\n{KEY}")}}).to_string();
        Answer::Http(401, "", body)
    };
    with(refused, 1, &["401 Unauthorized: Incorrect key: ***", "set OPENAI_API_KEY"]);
    with(|_, _| Answer::Http(404, "", "<html>".into()), 1, &["404 Not Found", "/v1", "\"tiny\""]);
    with(
        |_, _| Answer::Http(302, "location: http://127.0.0.1:1/\r\n", String::new()),
        1,
        &["302", "redirects"],
    );
    with(|_, _| Answer::Http(503, "", String::new()), 5, &["503 Service Unavailable (tried 5 times)"]);
    with(|_, _| Answer::Close, 5, &["(tried 5 times)", "the same command resumes"]);
    with(|_, _| Answer::Http(200, "", "<html>".into()), 2, &["no chat completions"]);
    // An error inside an answer that says all is well.
    let inside = |_: usize, _: &str| {
        let body = json!({"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day"}});
        Answer::Http(200, "", body.to_string())
    };
    with(inside, 5, &["429 Too Many Requests: Rate limit exceeded: free-models-per-day (tried 5 times)"]);
    let unknown = |_: usize, _: &str| Answer::Http(200, "", json!({"error": "no such model"}).to_string());
    with(unknown, 2, &["no such model", "check URL and model"]);
    let spent = |_: usize, _: &str| {
        let error = json!({"message": "You exceeded your current quota", "code": "insufficient_quota"});
        Answer::Http(429, "", json!({"error": error}).to_string())
    };
    with(spent, 1, &["You exceeded your current quota; waiting will not help"]);
    with(|_, _| Answer::Silence, 5, &["no answer in 0.5 s; --timeout sets how long to wait"]);

    // One that dies midway leaves its replies, and the next run resumes from there.
    let (base, seen) =
        serve(|n, request| if n < 6 { good(request) } else { Answer::Http(503, "", String::new()) });
    let (config, llm) = served(temp.path(), &base);
    let config = Prompting { out: temp.path().join("midway"), ..config };
    error(&(config.clone(), llm));
    assert!(seen.lock().unwrap().len() > 10);
    assert_eq!(std::fs::read_dir(config.out.join("llm_cache")).unwrap().count(), 6);

    // Nobody there, from the start.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = error(&served(temp.path(), &format!("http://{nobody}/v1/")));
    assert!(
        line.starts_with(&format!("http://{nobody}/v1/chat/completions: ")) && line.contains("onnect"),
        "{line}"
    );

    // A server that sends the key back as its reply.
    let (base, _) = serve(|_, request| match request.starts_with("My") {
        true => good(request),
        false => says(format!("{} {KEY}", description(request))),
    });
    let (config, llm) = served(temp.path(), &base);
    let config = Prompting { out: temp.path().join("echo"), ..config };
    run(&config, &llm, &Grammar::general(), &may_fit).unwrap();
    assert!(!everything(&config.out).contains(KEY));
}

#[test]
fn the_command_says_what_is_wrong_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let root = pacs(temp.path());
    let kaleid = |args: &[&str], key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
        command
            .args(["prompts", "--data", root.to_str().unwrap(), "--out"])
            .arg(temp.path().join("out"))
            .args(args);
        command.env_remove("OPENAI_BASE_URL").env_remove("KALEID_LLM_KEY").env("OPENAI_API_KEY", key);
        let done = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    };
    for (args, part) in [
        (vec!["--llm", "openai:gpt-4o"], "error: --llm: set OPENAI_API_KEY"),
        (vec!["--llm", "gpt-4o"], "error: --llm: must be template, openai:MODEL"),
        (vec!["--llm", "http://me:secret@host/v1"], "put the key in KALEID_LLM_KEY"),
        (vec!["--model", "m"], "a model's name goes with a URL"),
        (vec!["--hold-out", "clay"], "no domain clay"),
        (vec!["--domains", "sketch"], "there is a domain sketch already"),
        (vec!["--llm", "local:nowhere"], "nowhere"),
    ] {
        let (code, _, stderr) = kaleid(&args, "");
        let errors: Vec<_> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert!(code == 2 && errors.len() == 1 && errors[0].contains(part), "{args:?}: {stderr}");
        assert!(!stderr.contains("me:secret"), "{stderr}");
    }
    let (base, seen) =
        serve(|_, request| if request.starts_with("My") { good(request) } else { says("No.") });
    let (code, stdout, stderr) = kaleid(&["--llm", &base, "--model", "tiny", "--hold-out", "sketch"], KEY);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("new domains: Stained_glass, Ukiyo_e\n"), "{stdout}");
    assert!(stdout.contains("35 prompts: "), "{stdout}");
    let loud = "warning: MOST PROMPTS ARE NOT THE MODEL'S: 35 of 35 are the template's, since replies would not do (35: 1 words, not 20 to 80)";
    assert!(stderr.contains(loud), "{stderr}");
    assert!(seen.lock().unwrap()[0].1.contains(&format!("Bearer {KEY}")));
    let (code, _, _) = kaleid(&["--hold-out", "sketch", "--domains", "claymation"], "");
    assert_eq!(code, 0);
    assert_eq!(
        domains(&temp.path().join("out"))["new"],
        json!([{"folder": "claymation", "name": "claymation", "named_by": "user"}])
    );
}
