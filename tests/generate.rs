//! `kaleid generate` on a model of synthetic weights: images do not depend on their neighbours in a batch, and a resumed run ends
//! with the same bytes. (Its errors: tests/errors.rs.)

mod common;

use common::write_model;
use kaleid::core::{Gpu, GpuOptions};
use kaleid::data::folder::Folder;
use kaleid::engines::model::Model;
use kaleid::engines::options::{LongPrompts, Options, Preset, Rng};
use kaleid::engines::painter::Painter;
use kaleid::paint::about::about;
use kaleid::paint::generate::{self, Shard, Summary, Work};
use kaleid::paint::origins;
use kaleid::paint::painted;
use kaleid::paint::picture::Picture;
use kaleid::study::demo;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::num::NonZeroUsize;
use std::path::Path;

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::from_env()).unwrap()
}

fn options() -> Options {
    Options {
        batch: NonZeroUsize::new(2),
        steps: 3,
        guidance: 3.0.into(),
        scheduler: Some("euler-a".into()),
        ..Options::default()
    }
}

fn jobs() -> Vec<Picture> {
    let job = |(i, prompt): (usize, &&str)| Picture {
        prompt: prompt.to_string(),
        file_name: format!("new/{i}.png"),
        seed: Some(7 + i as u64),
        domain: Some("new".into()),
        class: None,
        init: None,
        described: None,
    };
    ["a dog", "a house, naïve art", "a dog"].iter().enumerate().map(job).collect()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> =
        (0..3).map(|i| (i.to_string(), read(&folder.join(format!("new/{i}.png"))))).collect();
    files.insert("metadata".into(), read(&folder.join("metadata.jsonl")));
    files
}

#[test]
fn images_depend_on_their_own_prompt_and_seed_only() {
    let (gpu, temp) = (gpu(), tempfile::tempdir().unwrap());
    let (model, out) = (temp.path().join("model"), temp.path().join("out"));
    write_model(&gpu, &model);
    let folder = Folder::from(model.as_path());
    let run = |jobs: &[Picture], out: &Path, options: &Options| {
        generate::run(&gpu, &folder, jobs, out, options, 0, Work::default()).unwrap()
    };
    assert_eq!(run(&jobs(), &out, &options()), Summary { painted: 3, kept: 0 });
    let whole = files(&out);
    let row = std::str::from_utf8(&whole["metadata"]).unwrap().lines().nth(1).unwrap();
    assert_eq!(
        row,
        r#"{"file_name":"new/1.png","domain":"new","prompt":"a house, naïve art","seed":8,"steps":3,"guidance":3.0,"scheduler":"euler-a","width":16,"height":16,"model":"model"}"#
    );
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8().into_raw();
    assert_ne!(pixels(&whole["0"]), pixels(&whole["2"]), "another seed is another image");

    // Nothing is left to do; then one image is gone and one is cut, and they are painted without their neighbour.
    assert_eq!(run(&jobs(), &out, &options()), Summary { painted: 0, kept: 3 });
    std::fs::remove_file(out.join("new/1.png")).unwrap();
    std::fs::remove_file(out.join("metadata.jsonl")).unwrap();
    std::fs::write(out.join("new/2.png"), &whole["2"][..whole["2"].len() - 100]).unwrap();
    assert_eq!(run(&jobs(), &out, &options()), Summary { painted: 2, kept: 1 });
    assert_eq!(files(&out), whole);

    // Other neighbours, and another batch: its kernels may round differently.
    let mut reversed = jobs();
    reversed.reverse();
    run(&reversed, &temp.path().join("reversed"), &options());
    let other = files(&temp.path().join("reversed"));
    (0..3).for_each(|i| assert_eq!(other[&i.to_string()], whole[&i.to_string()]));
    run(&jobs(), &temp.path().join("single"), &Options { batch: NonZeroUsize::new(1), ..options() });
    let single = files(&temp.path().join("single"));
    for i in ["0", "1", "2"] {
        let (a, b) = (pixels(&single[i]), pixels(&whole[i]));
        assert!(a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1), "image {i}");
    }

    // In parts, into one folder.
    let parts = temp.path().join("parts");
    for part in 1..=2 {
        let shard = Some(Shard { part, of: 2 });
        generate::run(&gpu, &folder, &jobs(), &parts, &options(), 0, Work { shard, ..Work::default() })
            .unwrap();
        assert_eq!(parts.join("new/1.png").exists(), part == 2);
    }
    assert_eq!(files(&parts), whole);

    // What the files say, to others and to us.
    let decoder = png::Decoder::new(Cursor::new(&whole["1"])).read_info().unwrap();
    let said: Vec<&str> = decoder.info().utf8_text.iter().map(|chunk| chunk.keyword.as_str()).collect();
    assert_eq!(said, ["kaleid", "parameters"]);
    let parameters = painted::parameters(Cursor::new(&whole["1"])).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let want = "a house, naïve art\nSteps: 3, Sampler: Euler a, CFG scale: 3.0, Seed: 8, Size: 16x16, Model: model, Version: kaleid ";
    assert_eq!(parameters, format!("{want}{version}"));
    let said = about(&out.join("new/1.png"), &GpuOptions::from_env()).unwrap();
    let command = "kaleid generate --model model --prompt 'a house, naïve art' --seed 8 --steps 3 --guidance 3.0 --scheduler euler-a --size 16x16 --out images";
    assert_eq!(said[1], ("command", command.to_string()));

    // Settings that are recorded only where they are not the usual ones.
    let other = Options { guidance_rescale: 0.7, rng: Rng::Cuda, ..options() };
    run(&jobs(), &temp.path().join("other"), &other);
    let changed = files(&temp.path().join("other"));
    assert_ne!(pixels(&changed["0"]), pixels(&whole["0"]));
    let metadata = std::str::from_utf8(&changed["metadata"]).unwrap();
    assert!(metadata.contains(r#""guidance_rescale":0.7,"rng":"cuda""#), "{metadata}");
    let wrong = Options { clip_skip: 2, ..options() };
    let error =
        generate::run(&gpu, &folder, &jobs(), &out, &wrong, 0, Work::default()).unwrap_err().to_string();
    assert_eq!(error, "--clip-skip 2: the text encoder has 1 layers");

    // Saved at another size than it is painted at.
    let smaller = Options { saved_size: Some([8, 12]), ..options() };
    run(&jobs()[..1], &temp.path().join("smaller"), &smaller);
    let file = temp.path().join("smaller/new/0.png");
    assert_eq!(image::open(&file).unwrap().to_rgb8().dimensions(), (12, 8));
    let command = about(&file, &GpuOptions::from_env()).unwrap()[1].1.clone();
    assert!(command.contains("--size 16x16 --saved-size 12x8"), "{command}");
    assert_eq!(run(&jobs()[..1], &temp.path().join("smaller"), &smaller).kept, 1);
    let synth =
        Options { preset: Some(Preset::Synth), saved_size: Some([64; 2]), ..Options::default() }.resolved();
    assert_eq!(
        (synth.scheduler.as_deref(), synth.size, synth.saved_size),
        (Some("ddim"), Some([512; 2]), Some([64; 2]))
    );
    assert_eq!((synth.steps, synth.guidance), (50, 2.0.into()));

    // Other settings are other images.
    let summary = run(&jobs(), &out, &Options { guidance: 1.0.into(), size: Some([20, 16]), ..options() });
    assert_eq!(summary, Summary { painted: 3, kept: 0 });
    assert_eq!(image::open(out.join("new/0.png")).unwrap().to_rgb8().dimensions(), (16, 20));
}

#[test]
fn parts_that_do_not_fit_together_are_loaded_in_turn_to_the_same_pixels() {
    let temp = tempfile::tempdir().unwrap();
    let folder = demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap();
    let paint = |memory: Option<u64>| {
        let gpu = Gpu::open(&GpuOptions { memory, ..GpuOptions::from_env() })?;
        let out = temp.path().join(format!("{memory:?}"));
        generate::run(
            &gpu,
            &folder,
            &jobs()[..1],
            &out,
            &Options { steps: 2, ..Options::default() },
            0,
            Work::default(),
        )?;
        anyhow::Ok(std::fs::read(out.join("new/0.png")).unwrap())
    };
    let takes = |memory: Option<u64>| {
        let gpu = Gpu::open(&GpuOptions { memory, ..GpuOptions::from_env() }).unwrap();
        let options = Options { steps: 2, ..Options::default() };
        let model = Model::open(&folder, &options).unwrap();
        Painter::new(&gpu, &model, &options, 1, 1).unwrap().takes()
    };
    // UNet 9.2 MiB, autoencoder 2.1.
    assert!(takes(Some(10)).contains(" in turn;") && !takes(None).contains("in turn"), "{}", takes(Some(10)));
    assert_eq!(paint(Some(10)).unwrap(), paint(None).unwrap());
    let error = paint(Some(8)).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("64x64 in batches of 1") && error.contains("--memory allows 8 MiB"), "{error}");
}

#[test]
fn two_adapters_paint_what_one_paints_and_show_what_they_do() {
    let temp = tempfile::tempdir().unwrap();
    let adapter = GpuOptions::from_env();
    let gpu = Gpu::open(&adapter).unwrap();
    let folder = demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap();
    let options = Options {
        steps: 4,
        batch: NonZeroUsize::new(1),
        guidance: "1.5, 2,3".parse().unwrap(),
        ..Options::default()
    };
    let one = temp.path().join("one");
    generate::run(&gpu, &folder, &jobs(), &one, &options, 0, Work::default()).unwrap();
    let two = temp.path().join("two");
    let beside = [adapter];
    let work = Work { beside: &beside, preview: NonZeroUsize::new(2), ..Work::default() };
    generate::run(&gpu, &folder, &jobs(), &two, &options, 0, work).unwrap();
    assert_eq!(files(&one), files(&two));
    assert!(!two.join(".preview.png").exists(), "a picture has no preview");

    // Each image has taken one of the numbers, by its seed.
    let rows = String::from_utf8(files(&one)["metadata"].clone()).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    for row in rows {
        let (seed, taken) = (row["seed"].as_u64().unwrap(), row["guidance"].as_f64().unwrap());
        assert!([1.5, 2.0, 3.0].contains(&taken) && taken as f32 == options.guidance.of(seed, "guidance"));
    }
}

#[test]
fn long_prompts_are_read_in_chunks_to_their_ends() {
    let temp = tempfile::tempdir().unwrap();
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    let folder = demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap();
    let long = "a dog and a cat in a house, ".repeat(12);
    let texts = [long.clone(), long.clone() + "pencil sketch", "a dog".into()];
    let job = |(i, text): (usize, &String)| Picture { prompt: text.clone(), ..jobs()[i].clone() };
    let pictures: Vec<Picture> =
        texts.iter().enumerate().map(job).map(|p| Picture { seed: Some(1), ..p }).collect();
    let paint = |pictures: &[Picture], long_prompts, name: &str| {
        let options = Options { steps: 2, guidance: 3.0.into(), long_prompts, ..Options::default() };
        let out = temp.path().join(name);
        generate::run(&gpu, &folder, pictures, &out, &options, 0, Work::default()).unwrap();
        out
    };
    let cut = files(&paint(&pictures, LongPrompts::Cut, "cut"));
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8().into_raw();
    assert_eq!(pixels(&cut["0"]), pixels(&cut["1"]), "the ends are lost");
    let whole = files(&paint(&pictures, LongPrompts::Chunk, "whole"));
    assert_ne!(pixels(&whole["0"]), pixels(&whole["1"]), "the ends are read");
    // Batches of other sizes may round differently.
    let near = |a: &[u8], b: &[u8]| pixels(a).iter().zip(&pixels(b)).all(|(a, b)| a.abs_diff(*b) <= 1);
    assert!(near(&whole["2"], &cut["2"]), "a short prompt is what it was");
    assert!(String::from_utf8(whole["metadata"].clone()).unwrap().contains(r#""long_prompts":"chunk""#));
    // Alone as among others.
    let alone = paint(&pictures[1..2], LongPrompts::Chunk, "alone").join("new/1.png");
    assert!(near(&std::fs::read(alone).unwrap(), &whole["1"]));
}

#[test]
fn what_the_autoencoder_cannot_decode_as_a_whole_it_decodes_in_tiles_that_fade_into_each_other() {
    let temp = tempfile::tempdir().unwrap();
    let folder = demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap();
    let paint = |memory: Option<u64>| {
        let gpu = Gpu::open(&GpuOptions { memory, ..GpuOptions::from_env() }).unwrap();
        let options =
            Options { steps: 1, guidance: 1.0.into(), size: Some([256, 192]), ..Options::default() };
        let model = Model::open(&folder, &options).unwrap();
        let [tile, _] = Painter::new(&gpu, &model, &options, 1, 1).unwrap().tiles();
        let out = temp.path().join(format!("{memory:?}"));
        generate::run(&gpu, &folder, &jobs()[..1], &out, &options, 0, Work::default()).unwrap();
        (tile, image::open(out.join("new/0.png")).unwrap().to_rgb8().into_raw())
    };
    let ((none, whole), (tile, tiled)) = (paint(None), paint(Some(17)));
    assert!(none.is_none() && tile.is_some(), "{none:?}, {tile:?}");
    let difference: u64 = whole.iter().zip(&tiled).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = difference as f64 / whole.len() as f64;
    // Group norms see a tile only.
    assert!(mean > 0.0 && mean < 2.0, "{mean} levels in the mean");
}

#[test]
fn a_picture_that_is_painted_from_another_is_what_diffusers_paints_from_it() {
    let (gpu, temp) = (Gpu::open(&GpuOptions::from_env()).unwrap(), tempfile::tempdir().unwrap());
    let init = temp.path().join("gradient.png");
    let pixel = |x: u32, y: u32| image::Rgb([(3 * x) as u8, (3 * y) as u8, 128]);
    image::RgbImage::from_fn(80, 72, pixel).save(&init).unwrap();
    let picture = Picture {
        prompt: "a sketch of a dog".into(),
        file_name: "a.png".into(),
        seed: Some(7),
        domain: None,
        class: None,
        init: Some(init.clone()),
        described: None,
    };
    let options = Options {
        steps: 10,
        guidance: 3.0.into(),
        strength: 0.6.into(),
        scheduler: Some("euler".into()),
        ..Options::default()
    };
    let folder = demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap();
    let run = |pictures: &[Picture], options: &Options| {
        generate::run(&gpu, &folder, pictures, temp.path(), options, 0, Work::default())
    };
    run(std::slice::from_ref(&picture), &options).unwrap();
    let open = |path: &Path| image::open(path).unwrap().to_rgb8().into_raw();
    let (got, want) = (open(&temp.path().join("a.png")), open(Path::new("tests/data/weights/img2img.png")));
    let largest = got.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(largest <= Some(2), "{largest:?} levels apart");

    let none = Options { strength: 0.05.into(), ..options.clone() };
    let error = run(std::slice::from_ref(&picture), &none).unwrap_err().to_string();
    assert!(error.contains("strength 0.05 leaves none of 10 steps"), "{error}");
    let other = Picture { file_name: "b.png".into(), init: None, ..picture };
    let error = run(
        &[Picture { init: Some(init), ..other.clone() }, Picture { file_name: "c.png".into(), ..other }],
        &options,
    );
    assert!(error.unwrap_err().to_string().contains("c.png has no image to be painted from"));
}

#[test]
fn originals_are_of_the_pictures_class_and_of_no_domain_that_is_held_out() {
    let temp = tempfile::tempdir().unwrap();
    common::toy(temp.path());
    let picture = |i: u32| Picture {
        prompt: "a square".into(),
        file_name: format!("{i}.png"),
        seed: None,
        domain: Some("ink".into()),
        class: Some(["down", "up"][i as usize % 2].into()),
        init: None,
        described: None,
    };
    let mut pictures: Vec<Picture> = (0..40).map(picture).collect();
    origins::assign(&mut pictures, temp.path(), &["photo".into()], 5).unwrap();
    let inits: Vec<_> = pictures.iter().map(|p| p.init.clone().unwrap()).collect();
    for (i, init) in inits.iter().enumerate() {
        let init = init.strip_prefix(temp.path()).unwrap();
        assert!(
            init.iter().nth(1) == Some(["down", "up"][i % 2].as_ref()) && !init.starts_with("photo"),
            "{init:?}"
        );
    }
    assert!(inits.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "drawn by seed");
    let mut again: Vec<Picture> = (0..40).map(picture).collect();
    origins::assign(&mut again, temp.path(), &["photo".into()], 5).unwrap();
    assert_eq!(again, pictures);
    let error = |mut picture: Picture, hold_out: &str| {
        let pictures = std::slice::from_mut(&mut picture);
        origins::assign(pictures, temp.path(), &[hold_out.into()], 0).unwrap_err().to_string()
    };
    assert!(error(picture(0), "phot").contains("no domain phot to hold out"));
    assert!(error(Picture { class: None, ..picture(0) }, "photo").contains("0.png has no class"));
    assert!(
        error(Picture { class: Some("left".into()), ..picture(0) }, "art")
            .contains("no originals of the class left")
    );
}
