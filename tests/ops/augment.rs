use crate::harness::gpu;
use base64::Engine;
use kaleid::core::{DType, Graph, Plan, Store};
use kaleid::data::augment::{Colour, View};
use kaleid::data::image::{Pixels, Rgb};
use kaleid::data::packed::{pack, packed_words};
use kaleid::data::rng::Key;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Shows each view of each image on the device and on the CPU, and compares the bits.
fn check(size: usize, shown: &[(Pixels, View)]) {
    let words = pack(size, shown);
    let g = Graph::new(gpu().caps());
    let pictures = g.input("pictures", &[words.len()], DType::U32);
    g.output("y", g.augment(pictures, shown.len(), size, MEAN, STD));
    let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
    plan.write_u32("pictures", &words).unwrap();
    plan.run().unwrap();
    let got = plan.read("y").unwrap();
    for (i, (image, view)) in shown.iter().enumerate() {
        let want = view.show(*image, size);
        let got = &got[i * size * size * 4..][..size * size * 4];
        for (k, (got, want)) in got.chunks_exact(4).zip(want.data.chunks_exact(3)).enumerate() {
            let normal = [0, 1, 2].map(|c| (f32::from(want[c]) / 255.0 - MEAN[c]) / STD[c]);
            assert_eq!(
                *got,
                [normal[0], normal[1], normal[2], 0.0],
                "image {i}, pixel {k}: {want:?}, {view:?}"
            );
        }
    }
}

/// Shapes that smooth noise has in photographs, and hard edges.
fn picture(width: usize, height: usize) -> Rgb {
    let key = Key::new(5, width as u32, "picture");
    let smooth = |x: usize, y: usize, c: usize| ((x * (c + 1) + y * 2) as f32 / 9.0).sin() * 90.0 + 120.0;
    let data = (0..width * height * 3).map(|i| {
        let noise = key.uniform(i as u32) * if i / 300 % 2 == 0 { 200.0 } else { 30.0 };
        (smooth(i / 3 % width, i / 3 / width, i % 3) + noise - 60.0) as u8
    });
    Rgb { width, height, data: data.collect() }
}

#[test]
fn random_views_are_those_of_the_cpu() {
    // Enlarged, shrunk, thin, and so large that it is resized before (a crop of more than twice the size).
    let images = [(31, 23), (64, 65), (7, 90), (1, 1), (33, 32), (120, 77)].map(|(w, h)| picture(w, h));
    for size in [1, 5, 32] {
        let view = |i: usize| {
            let image = images[i % images.len()].pixels();
            (image, View::random(image, Key::new(3, size as u32, "augment"), i))
        };
        check(size, &(0..60).map(view).collect::<Vec<_>>());
    }
}

#[test]
fn plain_views_are_those_of_the_cpu() {
    let images = [(224, 224), (500, 375), (100, 300)].map(|(w, h)| picture(w, h));
    check(224, &images.iter().map(|i| (i.pixels(), View::plain(i.pixels()))).collect::<Vec<_>>());
}

/// Every hue that a range and a middle can make, in every order of the channels; and all saturations of all values.
#[test]
fn every_hue_turns_as_on_the_cpu() {
    let mut data = vec![];
    for (range, middle) in (1..=255u8).flat_map(|r| (0..=r).map(move |m| (r, m))) {
        let [a, b, c] = [range, middle, 0];
        for p in [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
            data.extend(p.map(|v| v + (255 - range) / 3 * (middle % 2)));
        }
    }
    let size = 445;
    data.resize(size * size * 3, 7);
    let image = Pixels { width: size, height: size, data: &data };
    let turned = |shift| (image, View { colours: vec![Colour::Hue(shift)], ..View::plain(image) });
    check(size, &[turned(0), turned(1), turned(85), turned(200)]);
}

#[test]
fn colours_in_every_order() {
    let image = picture(40, 30);
    let ops = [Colour::Brightness(5000), Colour::Contrast(3000), Colour::Saturation(5324), Colour::Hue(240)];
    let mut shown = vec![];
    for order in 0..24 {
        let mut left = ops.to_vec();
        let colours = [order % 4, order / 4 % 3, order / 12, 0].map(|i| left.remove(i)).to_vec();
        let view =
            View { colours, grey: order % 5 == 0, flip: order % 2 == 0, ..View::plain(image.pixels()) };
        shown.push((image.pixels(), view));
    }
    check(17, &shown);
}

#[test]
fn a_pack_is_no_larger_than_it_says() {
    for (w, h) in [(31, 23), (7, 90), (1, 1), (500, 33), (64, 64), (65, 64)] {
        let image = picture(w, h);
        let words = pack(32, &[(image.pixels(), View::plain(image.pixels()))]).len();
        assert!(words <= 12 + packed_words([w, h], 32), "{w} x {h}: {words} words");
    }
}

/// Real pictures as Pillow shows them: on the CPU, and (by `check`) on the device.
#[test]
fn views_equal_pillows() {
    let text = include_str!("../data/pillow_views.json");
    let golden: serde_json::Value = serde_json::from_str(text).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let bytes = |key: &str| {
            base64::engine::general_purpose::STANDARD.decode(case[key].as_str().unwrap()).unwrap()
        };
        let size = case["size"].as_u64().unwrap() as usize;
        let colour = |c: &serde_json::Value| {
            let value = c[1].as_u64().unwrap() as u32;
            match c[0].as_str().unwrap() {
                "brightness" => Colour::Brightness(value),
                "contrast" => Colour::Contrast(value),
                "saturation" => Colour::Saturation(value),
                _ => Colour::Hue(value as u8),
            }
        };
        let view = View {
            crop: serde_json::from_value(case["crop"].clone()).unwrap(),
            flip: case["flip"].as_bool().unwrap(),
            colours: case["colours"].as_array().unwrap().iter().map(colour).collect(),
            grey: case["grey"].as_bool().unwrap(),
        };
        let file = format!("{}/{}", env!("CARGO_MANIFEST_DIR"), case["file"].as_str().unwrap());
        let image = Rgb::open(&file).unwrap();
        let resized = View { crop: view.crop, ..View::plain(image.pixels()) };
        assert_eq!(resized.show(image.pixels(), size).data, bytes("resized"), "{file}, resized");
        assert_eq!(view.show(image.pixels(), size).data, bytes("shown"), "{file}, {view:?}");
        check(size, &[(image.pixels(), view)]);
    }
}
