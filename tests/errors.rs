//! Errors, seen to hold: what a person or a file can get wrong ends the program with code 2 and one line that says what, where
//! and what to do; the last good state stays, and nothing is left half-written. (Checkpoints, data sets and goldens that are
//! broken, in more detail: tests/checkpoint.rs, tests/dataset.rs, tests/verify.rs.)

mod common;

use common::{UNET, VAE, toy, write_model};
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::checkpoint::{Checkpoint, TensorData, save};
use kaleid::data::folder::Folder;
use kaleid::engines::model::Model;
use kaleid::engines::options::Options;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
    // Wayland's library, which drivers ask for displays, says "error:" of its own where this is not set.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command
}

/// The one line that a command says when it fails.
#[track_caller]
fn line(output: Output) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && !text.contains("panicked"), "{text}");
    errors[0].to_string()
}

#[track_caller]
fn fails(command: &mut Command, parts: &[&str]) {
    let line = line(command.output().unwrap());
    assert!(parts.iter().all(|p| line.contains(p)), "{parts:?} not all in: {line}");
}

/// A model and a data set that are whole, made once.
struct Whole {
    _temp: tempfile::TempDir,
    model: PathBuf,
    data: PathBuf,
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let temp = tempfile::tempdir().unwrap();
    let (model, data) = (temp.path().join("model"), temp.path().join("data"));
    write_model(&Gpu::open(&GpuOptions::from_env()).unwrap(), &model);
    toy(&data);
    Whole { _temp: temp, model, data }
});

/// A copy of a folder that a test may break.
fn copy(from: &Path, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
    to.to_path_buf()
}

/// Adds the flags of `defaults` that `more` does not give (or that it gives as --total-batch gives --batch), and `more`.
fn flags(mut command: Command, defaults: &[&[&str]], more: &[&str]) -> Command {
    for flag in defaults {
        if !more.iter().any(|m| m.starts_with("--") && m.contains(&flag[0][2..])) {
            command.args(*flag);
        }
    }
    command.args(more);
    command
}

fn generate(model: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.arg("generate").arg("--model").arg(model).arg("--out").arg(out);
    flags(command, &[&["--steps", "2"], &["--guidance", "1"]], more)
}

fn train(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.arg("train").arg("--data").arg(data).arg("--out").arg(out);
    let tiny: [&[&str]; 6] = [
        &["--arch", "resnet18"],
        &["--width", "4"],
        &["--size", "16"],
        &["--stem", "3", "1"],
        &["--batch", "4"],
        &["--test-domain", "sketch"],
    ];
    flags(command, &tiny, more)
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// Writes a safetensors file again with what `change` makes of each tensor.
fn rewrite(
    file: &Path,
    change: impl Fn(&str, Vec<usize>, Vec<f32>) -> Option<(String, Vec<usize>, Vec<f32>)>,
) {
    let old = Checkpoint::open(file).unwrap();
    let mut tensors = BTreeMap::new();
    for name in old.names() {
        let (shape, data) = old.tensor(name).unwrap();
        if let Some((name, shape, data)) = change(name, shape, data) {
            tensors.insert(name, TensorData::f32(&shape, &data));
        }
    }
    let metadata = old.metadata().clone();
    drop(old);
    save(file, &tensors, &metadata).unwrap();
}

/// Writes a safetensors file again with one tensor's numbers times a factor.
fn scale(file: &Path, tensor: &str, factor: f32) {
    rewrite(file, |name, shape, mut data| {
        if name == tensor {
            data.iter_mut().for_each(|v| *v *= factor);
        }
        Some((name.into(), shape, data))
    });
}

#[test]
fn broken_weights_are_named_with_file_and_tensor() {
    let temp = tempfile::tempdir().unwrap();
    let (model, out) = (copy(&WHOLE.model, &temp.path().join("model")), temp.path().join("out"));
    let file = model.join("unet/model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let fails = |parts: &[&str]| {
        fails(&mut generate(&model, &out, &["--prompt", "a"]), parts);
        assert_eq!(files(&out), [""; 0], "nothing is written");
    };
    let not_whole = ["unet/model.safetensors: not a whole safetensors file", "download it again"];
    let written = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    written(&whole[..whole.len() / 2]);
    fails(&not_whole);
    written(b"");
    fails(&["unet/model.safetensors: an empty file: download it again"]);
    written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 492265168\n");
    fails(&["unet/model.safetensors: a Git LFS pointer, not the file: run `git lfs pull`"]);
    let mut corrupt = whole.clone();
    corrupt[20] ^= 0x80;
    written(&corrupt);
    fails(&not_whole);

    let again = |change: &dyn Fn(&str, Vec<usize>, Vec<f32>) -> Option<(String, Vec<usize>, Vec<f32>)>| {
        written(&whole);
        rewrite(&file, change);
    };
    again(&|name, shape, data| (name != "conv_in.bias").then(|| (name.to_string(), shape, data)));
    fails(&["unet/model.safetensors: no tensor conv_in.bias"]);
    again(&|name, shape, data| {
        let shape = if name == "conv_out.bias" { vec![2, 2] } else { shape };
        Some((name.into(), shape, data))
    });
    fails(&["conv_out.bias has shape [2, 2], expected [4]"]);
    again(&|name, shape, mut data| {
        data[0] = if name == "mid_block.resnets.0.conv1.weight" { f32::NAN } else { data[0] };
        Some((name.into(), shape, data))
    });
    fails(&["unet/model.safetensors: mid_block.resnets.0.conv1.weight holds NaN at place 0"]);
    // Integers where numbers belong; both words are as long.
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(whole[..header].iter().map(|b| b & 0x7f).collect()).unwrap();
    let at = text.find("\"conv_in.bias\"").unwrap();
    let at = at + text[at..].find("F32").unwrap();
    let mut ints = whole.clone();
    ints[at..at + 3].copy_from_slice(b"I32");
    written(&ints);
    fails(&["conv_in.bias holds I32, expected F32"]);

    std::fs::remove_file(&file).unwrap();
    let index = r#"{"weight_map": {"conv_in.bias": "gone-00001-of-00002.safetensors"}}"#;
    std::fs::write(model.join("unet/diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    fails(&["unet/gone-00001-of-00002.safetensors: cannot open the weights"]);
}

#[test]
fn configurations_that_cannot_be_name_key_and_value() {
    let temp = tempfile::tempdir().unwrap();
    let model = copy(&WHOLE.model, &temp.path().join("model"));
    let unet = |from: &str, to: &str| ("unet/config.json", UNET.replace(from, to));
    let vae = |from: &str, to: &str| ("vae/config.json", VAE.replace(from, to));
    let scheduler =
        |from: &str, to: &str| ("scheduler/scheduler_config.json", common::SCHEDULER.replace(from, to));
    let cases = [
        (unet("{", "["), "unet/config.json: not valid JSON"),
        (
            unet("\"cross_attention_dim\": 16", "\"cross_attention_dim\": 0"),
            "cross_attention_dim = 0 must be",
        ),
        (unet("\"sample_size\": 8", "\"sample_size\": -8"), "sample_size = -8 must be a whole number from 1"),
        (unet("\"sample_size\": 8", "\"sample_size\": \"8\""), "sample_size = \"8\" must be"),
        (
            unet("\"layers_per_block\": 1", "\"layers_per_block\": 1000000000"),
            "layers_per_block = 1000000000 must",
        ),
        (
            unet("\"attention_head_dim\": 2", "\"attention_head_dim\": 3"),
            "attention_head_dim = 3 does not divide 32",
        ),
        (unet("\"norm_num_groups\": 4", "\"norm_num_groups\": 5"), "norm_num_groups = 5 does not divide 16"),
        (unet("[16, 32]", "[16, 32, 32]"), "block_out_channels has 3 levels, down_block_types 2"),
        (
            unet("\"CrossAttnDownBlock2D\"", "\"AttnDownBlock2D\""),
            "down_block_types = \"AttnDownBlock2D\" is not supp",
        ),
        (unet("\"sample_size\": 8", "\"norm_eps\": -1"), "norm_eps = -1 must be a number above 0"),
        (
            unet("\"sample_size\": 8", "\"class_embed_type\": \"timestep\""),
            "class_embed_type = \"timestep\" is not",
        ),
        (unet("\"sample_size\": 8", "\"in_channels\": 9"), "in_channels = 9 is not supported"),
        (unet("UNet2DConditionModel", "UNet3D"), "_class_name = \"UNet3D\" is not supported"),
        (vae("[16, 32]", "[16]"), "block_out_channels has 1 levels, down_block_types 2"),
        (
            vae("\"layers_per_block\": 1", "\"scaling_factor\": 0"),
            "scaling_factor = 0 must be a number above 0",
        ),
        (vae("\"layers_per_block\": 1", "\"layers_per_block\": 1.5"), "layers_per_block = 1.5 must be"),
        (scheduler("DDIMScheduler", "HeunScheduler"), "_class_name = \"HeunScheduler\" is not supported"),
        (scheduler("0.012", "12"), "beta_end = 12 must lie between 0 and 1"),
        (scheduler("0.012", "0.012, \"num_train_timesteps\": 0"), "num_train_timesteps = 0 must be"),
        (scheduler("scaled_linear", "cosine"), "beta_schedule = \"cosine\" is not supported"),
    ];
    for ((file, text), says) in &cases {
        let path = model.join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let opened = Model::open(&Folder::from(model.as_path()), &Options::default())
            .and_then(|m| m.scheduler(None).map(|_| ()));
        let error = format!("{:#}", opened.expect_err(says));
        assert!(
            error.contains(says) && error.contains(file) && !error.contains('\n'),
            "{says} not in: {error}"
        );
        std::fs::write(&path, whole).unwrap();
    }
    // One of them, and the text encoder's, as a person sees it.
    let text = common::TEXT.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 3");
    std::fs::write(model.join("text_encoder/config.json"), text).unwrap();
    let fails = |parts: &[&str]| {
        fails(&mut generate(&model, &temp.path().join("out"), &["--prompt", "a"]), parts);
    };
    fails(&["text_encoder/config.json: num_attention_heads = 3 does not divide hidden_size = 16"]);
    std::fs::write(model.join("text_encoder/config.json"), common::TEXT).unwrap();
    std::fs::write(model.join("tokenizer/tokenizer_config.json"), r#"{"model_max_length": 2}"#).unwrap();
    fails(&["tokenizer/vocab.json: texts of 2 tokens, 2 of them special"]);
    std::fs::remove_file(model.join("tokenizer/merges.txt")).unwrap();
    fails(&["tokenizer/merges.txt: cannot read"]);
    std::fs::remove_dir_all(model.join("vae")).unwrap();
    fails(&["model: not a Stable Diffusion folder: it has no vae"]);
    fails_at(Path::new("nowhere"), "nowhere: no such file or folder; a model is a folder");
    fails_at(&model.join("unet/config.json"), "config.json: no weight_map in it");
}

#[track_caller]
fn fails_at(model: &Path, says: &str) {
    fails(&mut generate(model, Path::new("nowhere/out"), &["--prompt", "a"]), &[says]);
}

#[test]
fn data_that_is_no_data_set_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("out"));
    let fails = |more: &[&str], says: &str| {
        fails(&mut train(&data, &out, more), &[says]);
        let left = files(&out);
        assert!(!left.iter().any(|f| f.ends_with(".tmp") || f == "done"), "{left:?}");
    };
    fails(&[], "data: cannot list the folder");
    std::fs::write(&data, "a file").unwrap();
    fails(&[], "data: cannot list the folder");
    std::fs::remove_file(&data).unwrap();
    copy(&WHOLE.data, &data);
    let image = data.join("photo/up/5.png");
    let whole = std::fs::read(&image).unwrap();
    for (bytes, says) in [
        (&b"no image"[..], "photo/up/5.png: not a readable image; replace or delete it: unknown format"),
        (&whole[..whole.len() / 2], "photo/up/5.png: not a readable image; replace or delete it"),
        (&whole[..20], "photo/up/5.png: not a readable image; replace or delete it"),
        (b"", "photo/up/5.png: not a readable image; replace or delete it: an empty file"),
    ] {
        std::fs::write(&image, bytes).unwrap();
        fails(&[], says);
    }
    std::fs::write(&image, whole).unwrap();
    let extra = temp.path().join("extra");
    std::fs::create_dir_all(extra.join("new/cat")).unwrap();
    let extra = extra.to_str().unwrap();
    fails(
        &["--variant", "qd", "--extra", extra],
        "extra/new/cat: the data set has no class cat; it has down, up",
    );
    std::fs::rename(data.join("photo/up"), data.join("photo/Up")).unwrap();
    fails(&[], "photo: its classes differ from those of art: it lacks up it also has Up");
    std::fs::remove_dir_all(data.join("photo/Up")).unwrap();
    std::fs::create_dir(data.join("photo/up")).unwrap();
    fails(&[], "photo/up: no images in this class folder");
}

#[test]
fn prompts_that_cannot_be_are_named_with_their_line() {
    let temp = tempfile::tempdir().unwrap();
    let (file, out) = (temp.path().join("prompts.jsonl"), temp.path().join("out"));
    let good = r#"{"prompt": "a", "file_name": "a/b.png"}"#;
    let cases: [(&[u8], &str); 9] = [
        (b"{\"text\": \"b\"}", "missing field `prompt` at column 13; a line is {\"prompt\""),
        (b"a dog", "expected value at column 1"),
        (b"{\"prompt\": \"\xff\"}", "not a text in UTF-8"),
        (br#"{"prompt": "a", "seed": -1}"#, "seed = -1 is no whole number from 0"),
        (
            br#"{"prompt": "a", "file_name": "../a.png"}"#,
            "\"../a.png\" must be the name of a .png file below",
        ),
        (
            br#"{"prompt": "a", "file_name": "/abs/a.png"}"#,
            "\"/abs/a.png\" must be the name of a .png file below",
        ),
        (br#"{"prompt": "a", "file_name": "a.jpg"}"#, "\"a.jpg\" must be the name of a .png file below"),
        (br#"{"prompt": "a", "file_name": "a//b.png"}"#, "\"a//b.png\" is there twice"),
        (br#"{"prompt": "a\u0000"}"#, "contains a zero byte"),
    ];
    let run = || generate(&WHOLE.model, &out, &["--prompts", file.to_str().unwrap()]);
    for (bad, says) in cases {
        std::fs::write(&file, [good.as_bytes(), b"\n\n", bad, b"\n"].concat()).unwrap();
        fails(&mut run(), &["prompts.jsonl, line 3: ", says]);
    }
    std::fs::write(&file, "\n").unwrap();
    fails(&mut run(), &["prompts.jsonl: no prompts in it"]);
    std::fs::remove_file(&file).unwrap();
    fails(&mut run(), &["prompts.jsonl: cannot read"]);
    assert!(!out.exists());
}

#[test]
fn flags_that_cannot_be_say_what_can() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let painting: [(&[&str], &str); 11] = [
        (&["--size", "17"], "size 17x17: width and height must be multiples of 2"),
        (&["--size", "0"], "a size is a number like 512"),
        (&["--steps", "0"], "0 steps: the ddim scheduler takes 1 to 1000"),
        (&["--steps", "2000"], "2000 steps: the ddim scheduler takes 1 to 1000"),
        (&["--scheduler", "plms"], "scheduler \"plms\" is not known; choose one of ddim, pndm"),
        (&["--guidance", "2,x"], "\"2,x\" is no number, and no list of numbers between commas"),
        (&["--guidance", "NaN"], "--guidance NaN must be a number from 0"),
        (&["--guidance=-1"], "--guidance -1 must be a number from 0"),
        (&["--batch", "0"], "invalid value '0' for '--batch"),
        (&["--adapter", "no such card"], "no adapter 'no such card': there are "),
        (&["--backend", "metal"], "no metal adapter found: install a Vulkan driver"),
    ];
    for (more, says) in painting {
        fails(&mut generate(&WHOLE.model, &out, &[&["--prompt", "a"], more].concat()), &[says]);
    }
    fails(program().args(["bench", "conv", "--tune"]), &["--tune takes the name of one case, such as conv"]);
    fails(program().args(["bench", "copy", "--tune"]), &["copy: there is no matrix product"]);
    let training: [(&[&str], &str); 24] = [
        (&["--test-domain", "clipart"], "no domain clipart: there are art, photo, sketch"),
        (
            &["--test-domain", "art", "--test-domain", "photo", "--test-domain", "sketch"],
            "all 3 domains are test domains",
        ),
        (&["--algorithm", "IRMM"], "no algorithm IRMM: did you mean IRM?"),
        (&["--arch", "resnet19"], "no architecture resnet19: there are resnet18, resnet34, resnet50"),
        (&["--variant", "qd"], "variant qd needs --extra"),
        (&["--hparams", r#"{"momentum": 1}"#], "no hyper-parameter momentum: there are "),
        (&["--hparams", "[1]"], "must be a JSON object, such as"),
        (&["--hparams", r#"{"resnet_dropout": 1}"#], "resnet_dropout = 1: it must be below 1"),
        (&["--steps", "0"], "--steps 0: it must be from 1"),
        (&["--holdout-fraction", "2"], "--holdout-fraction 2: it must be from 0 to below 1"),
        (&["--holdout-fraction", "NaN"], "--holdout-fraction NaN: it must be"),
        (&["--lr", "NaN"], "hyper-parameter lr = null"),
        (&["--lr=-1"], "hyper-parameter lr = -1.0"),
        (&["--weights", "gone.safetensors"], "gone.safetensors: cannot open the weights"),
        (&["--total-batch", "1"], "a total batch of 1 is less than one sample of each of 2 training domains"),
        (&["--extra", "gone", "--variant", "d"], "gone: cannot list the folder"),
        (&["--adapter", "99"], "no adapter '99': there are "),
        (&["--width", "6"], "--width 6: it must be a multiple of 4"),
        (&["--size", "0"], "--size 0: it must be from 1 to 4096"),
        (&["--stem", "65", "1"], "--stem: kernel 65: it must be from 1 to 64"),
        (&["--val-augment", "no"], "invalid value 'no' for '--val-augment"),
        (&["--stem", "3"], "2 values required for '--stem"),
        (&["--batch", "0"], "hyper-parameter batch_size = 0"),
        (&["--batch", "17"], "batch 17 is larger than its 16 training images"),
    ];
    for (more, says) in training {
        fails(&mut train(&WHOLE.data, &out, more), &[says]);
    }
    assert!(!out.exists(), "a command that cannot be leaves nothing: {:?}", files(&out));
}

#[test]
fn without_an_adapter_it_says_what_to_install() {
    for command in [&["info"][..], &["verify"], &["bench", "matmul"]] {
        let mut command = flags(program(), &[], command);
        command.env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
        command.env_remove("KALEID_ADAPTER").args(["--backend", "vulkan"]);
        let says = ["no vulkan adapter found: install a Vulkan driver", "mesa-vulkan-drivers", "setup.sh"];
        fails(&mut command, &says);
    }
}

#[test]
fn what_the_adapter_cannot_hold_is_one_line_before_any_work() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let large = ["--prompt", "a", "--size", "8192"];
    fails(
        &mut generate(&WHOLE.model, &out, &large),
        &["8192x8192 in batches of 1: ", "choose a smaller size"],
    );
    // More numbers than a kernel can count.
    let prompts = temp.path().join("prompts.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"a\"}\n".repeat(600)).unwrap();
    let many = ["--prompts", prompts.to_str().unwrap(), "--size", "8192", "--batch", "600"];
    fails(
        &mut generate(&WHOLE.model, &out, &many),
        &["8192x8192 in batches of 600: ", "choose a smaller size"],
    );
    assert!(!out.exists());

    let large = ["--arch", "resnet50", "--width", "2048", "--size", "4096", "--batch", "16"];
    fails(&mut train(&WHOLE.data, &out, &large), &["smaller size or batch"]);
    // What failed before its first step does not keep the folder from a smaller one.
    let done = train(&WHOLE.data, &out, &["--steps", "1"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn output_that_cannot_be_written_is_named_before_the_work() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "a file").unwrap();
    for out in [file.clone(), file.join("out")] {
        let says = format!("{}: cannot make the folder; choose another place", out.display());
        fails(&mut generate(&WHOLE.model, &out, &["--prompt", "a"]), &[&says]);
        fails(&mut train(&WHOLE.data, &out, &["--steps", "1"]), &[&says]);
    }
    fails(program().arg("bench").arg("--dump").arg(file.join("out")), &["file/out: cannot make the folder"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"a file");
    assert_eq!(files(temp.path()), ["file"]);
}

/// The command with files limited to `blocks` of 512 bytes: a disk that is full at the same place every time, root or not.
#[cfg(unix)]
fn on_a_full_disk(command: &Command, blocks: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args());
    shell.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    shell
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_good_state() {
    let temp = tempfile::tempdir().unwrap();
    let (images, run) = (temp.path().join("images"), temp.path().join("run"));
    // An image of another size first: it is whole, and stays.
    let small = generate(&WHOLE.model, &images, &["--prompt", "a"]).output().unwrap();
    assert!(small.status.success(), "{}", String::from_utf8_lossy(&small.stderr));
    let before = std::fs::read(images.join("00000.png")).unwrap();
    let large = generate(&WHOLE.model, &images, &["--prompt", "a", "--size", "64"]);
    fails(
        &mut on_a_full_disk(&large, 4),
        &["images/00000.png: cannot write (is the disk full or read-only?)"],
    );
    assert_eq!(std::fs::read(images.join("00000.png")).unwrap(), before);
    assert_eq!(files(&images), ["00000.png", "metadata.jsonl"]);

    let command = train(&WHOLE.data, &run, &["--steps", "2", "--checkpoint-freq", "1"]);
    fails(&mut on_a_full_disk(&command, 64), &["run/checkpoint.safetensors: cannot write (is the disk full"]);
    assert!(!files(&run).iter().any(|f| f.ends_with(".tmp") || f == "done"), "{:?}", files(&run));
    // With room again, the same command ends well.
    let mut command = train(&WHOLE.data, &run, &["--steps", "2", "--checkpoint-freq", "1"]);
    let again = command.output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(std::fs::read_to_string(run.join("results.jsonl")).unwrap().lines().count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_nobody_takes_is_an_error_not_a_panic() {
    for command in [&["info"][..], &["info", "--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut program = program();
        program.args(command).stdout(Stdio::from(full));
        let output = program.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert!(line(output).contains("cannot write to standard output: No space left"));
    }
}

#[test]
fn numbers_that_overflow_name_the_step_and_paint_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (model, out) = (copy(&WHOLE.model, &temp.path().join("model")), temp.path().join("out"));
    let mut run = generate(&model, &out, &["--prompt", "a dog"]);
    let unet = model.join("unet/model.safetensors");
    let whole = std::fs::read(&unet).unwrap();
    scale(&unet, "conv_out.weight", 1e38);
    scale(&unet, "conv_norm_out.weight", 1e4);
    fails(&mut run, &["step 1 of 2: the UNet's output for \"a dog\" is not finite"]);
    std::fs::write(&unet, whole).unwrap();
    let vae = model.join("vae/model.safetensors");
    scale(&vae, "decoder.conv_out.weight", 1e38);
    scale(&vae, "decoder.conv_norm_out.weight", 1e4);
    fails(&mut run, &["the autoencoder's output for \"a dog\" is not finite"]);
    assert_eq!(files(&out), [""; 0], "no image is saved");
}

#[test]
fn training_that_diverges_names_the_steps() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let more = ["--steps", "9", "--checkpoint-freq", "4", "--lr", "1e30"];
    let text = line(train(&WHOLE.data, &out, &more).output().unwrap());
    assert!(text.contains("step") && text.contains("training diverged; lower the learning rate"), "{text}");
    let left = files(&out);
    assert!(!left.iter().any(|f| f == "done" || f == "model.safetensors" || f.ends_with(".tmp")), "{left:?}");
    if out.join("checkpoint.safetensors").exists() {
        let kept = Checkpoint::open(out.join("checkpoint.safetensors")).unwrap();
        kept.names().for_each(|n| _ = kept.tensor(n).unwrap());
    }
}

#[test]
fn a_training_folder_is_one_run_of_one_process() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let more = ["--steps", "400", "--checkpoint-freq", "2", "--skip-train-accuracy", "--plain-validation"];
    let quiet = || {
        let mut command = train(&WHOLE.data, &out, &more);
        command.stderr(Stdio::null()).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let mut first = quiet();
    let start = Instant::now();
    let rows = || std::fs::read_to_string(out.join("results.jsonl")).map_or(0, |text| text.lines().count());
    while !(rows() >= 2 && out.join("checkpoint.safetensors").exists()) {
        assert!(start.elapsed() < Duration::from_secs(900), "no checkpoint: {:?}", files(&out));
        assert!(first.try_wait().unwrap().is_none(), "the first run ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = train(&WHOLE.data, &out, &more).output();
    first.kill().unwrap();
    first.wait().unwrap();
    let text = line(second.unwrap());
    assert!(text.contains("run: another process is working in this folder"), "{text}");

    // The run that was killed, with one thing broken each time.
    let broken = |name: &str, says: &[&str], breaks: &dyn Fn(&Path)| {
        let copied = copy(&out, &temp.path().join(name).join("run"));
        breaks(&copied);
        // The folder's name is one of the arguments that a run is known by.
        let held = temp.path().join("held");
        std::fs::rename(&out, &held).unwrap();
        std::fs::rename(&copied, &out).unwrap();
        fails(&mut train(&WHOLE.data, &out, &more), says);
        std::fs::rename(&out, &copied).unwrap();
        std::fs::rename(&held, &out).unwrap();
    };
    let checkpoint = "checkpoint.safetensors";
    let cannot = "checkpoint.safetensors: cannot resume from this checkpoint; delete it to train anew: ";
    broken("cut", &[cannot, "not a whole safetensors file"], &|run| {
        let bytes = std::fs::read(run.join(checkpoint)).unwrap();
        std::fs::write(run.join(checkpoint), &bytes[..bytes.len() / 2]).unwrap();
    });
    broken("lacking", &[cannot, "it lacks layer1.0.conv1.weight.exp_avg"], &|run| {
        rewrite(&run.join(checkpoint), |name, shape, data| {
            (name != "layer1.0.conv1.weight.exp_avg").then(|| (name.to_string(), shape, data))
        });
    });
    broken("nan", &[cannot, "fc.weight holds NaN"], &|run| {
        scale(&run.join(checkpoint), "fc.weight", f32::NAN);
    });
    broken("shape", &[cannot, "fc.bias"], &|run| {
        rewrite(&run.join(checkpoint), |name, shape, data| match name {
            "fc.bias" => Some((name.into(), vec![3], vec![0.0; 3])),
            _ => Some((name.into(), shape, data)),
        });
    });
    let results = |run: &Path, change: &dyn Fn(Vec<&str>) -> String| {
        let text = std::fs::read_to_string(run.join("results.jsonl")).unwrap();
        std::fs::write(run.join("results.jsonl"), change(text.lines().collect())).unwrap();
    };
    broken("torn", &["results.jsonl, line 2: not a whole result; delete ", "run to train anew"], &|run| {
        results(run, &|lines| format!("{}\n{}", lines[0], &lines[1][..lines[1].len() / 2]));
    });
    broken("gap", &["results.jsonl: the result of step 0 is missing; delete "], &|run| {
        results(run, &|lines| lines[1..].join("\n"));
    });
    broken("done", &["results.jsonl: the result of step 0 is missing; delete "], &|run| {
        std::fs::write(run.join("done"), "done").unwrap();
        std::fs::remove_file(run.join("results.jsonl")).unwrap();
    });
    broken("other", &["run: holds results of something else: choose another --out"], &|run| {
        std::fs::remove_file(run.join("train.json")).unwrap();
    });
    broken("unreadable", &["run: holds another run"], &|run| {
        std::fs::write(run.join("train.json"), b"\xff\xfe").unwrap();
    });
}

#[test]
fn goldens_that_are_broken_are_rows_and_an_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fails(program().arg("verify").arg(dir.join("gone")), &["gone: cannot read"]);
    fails(program().arg("verify").arg(dir), &["no golden here (NAME.safetensors or NAME.json)"]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let tensors = std::fs::read(golden.join("vae_tiny.safetensors")).unwrap();
    let put = |name: &str, config: &[u8], tensors: &[u8]| {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("config.json"), config).unwrap();
        std::fs::write(dir.join(format!("{name}.safetensors")), tensors).unwrap();
    };
    let config = std::fs::read(golden.join("vae_tiny/config.json")).unwrap();
    put("a_cut", &config, &tensors[..tensors.len() / 2]);
    put("b_class", br#"{"architectures": ["BertModel"]}"#, &tensors);
    put("c_config", b"{", &tensors);
    put("d_empty", b"{}", &tensors);
    put("e_outputs", br#"{"architectures": ["CLIPTextModel"]}"#, &tensors);
    std::fs::write(dir.join("f_length.json"), br#"{"length": 1000000000000, "tokens": {"a": [1]}}"#).unwrap();
    copy(&golden.join("tokenizer_clip"), &dir.join("f_length"));
    let output = program().arg("verify").arg(dir).output().unwrap();
    let rows = String::from_utf8(output.stdout.clone()).unwrap();
    let says = [
        "a_cut.safetensors: not a whole safetensors file",
        "the class BertModel is not known",
        "c_config/config.json: not valid JSON",
        "architectures is missing",
        "e_outputs.safetensors: no tensor input_ids",
        "leave none for words",
    ];
    for (row, says) in rows.lines().skip(1).zip(says) {
        assert!(row.contains("FAIL") && row.contains(says), "{says} not in: {row}");
    }
    assert_eq!(rows.lines().count(), 7, "{rows}");
    assert!(line(output).contains("6 of 6 goldens do not hold"));
}

#[test]
fn every_help_shows_an_example() {
    for command in ["", "run", "generate", "score", "train", "sweep", "verify", "bench", "info"] {
        let output = program().args([command, "--help"].iter().filter(|a| !a.is_empty())).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Example"), "{command}: {text}");
        assert!(text.contains(&format!("kaleid {command}")), "{command}: {text}");
    }
}
