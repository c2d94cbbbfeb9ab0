//! Graphics cards keep matrices and activations as f16, a CPU does not: every model of the pipeline must record with both, and give
//! about the same numbers.

use kaleid::core::{DType, Gpu, GpuOptions, Tensor, Weights};
use kaleid::data::config::Config;
use kaleid::data::image::Rgb;
use kaleid::engines::clip::{ClipEmbedder, TextEncoder};
use kaleid::engines::load;
use kaleid::engines::model::Model;
use kaleid::engines::options::Options;
use kaleid::models::unet::{Inputs, UnetConfig, keys_and_values, unet};
use kaleid::models::vae::{VaeConfig, decode};
use kaleid::study::demo;
use kaleid::verify::golden::{Comparison, HALF};
use std::cell::RefCell;
use std::path::Path;

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions::from_env()).unwrap()
}

/// Runs `f` with weights of both types.
fn both(what: &str, f: impl Fn(DType) -> Vec<f32>) {
    let [whole, half] = [DType::F32, DType::F16].map(f);
    let comparison = Comparison::new(what, &half, &whole, HALF);
    assert!(comparison.holds(), "{comparison:?}");
}

#[test]
fn text_and_image_towers_take_f16_weights() {
    let gpu = gpu();
    let texts = ["a dog in the style of noto", "a house"];
    both("text encoder", |dtype| {
        let folder = demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap();
        let model = Model::open(&folder, &Options::default()).unwrap();
        TextEncoder::of(&gpu, &model, dtype).unwrap().encode(&texts, 1).unwrap()
    });
    let clip = |dtype| {
        ClipEmbedder::open(&gpu, &demo::folder(Path::new(demo::BUILTIN), "clip").unwrap(), dtype).unwrap()
    };
    both("CLIP's texts", |dtype| clip(dtype).texts(&texts).unwrap().concat());
    let data = (0..80 * 70 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let image = Rgb { width: 80, height: 70, data };
    both("CLIP's images", |dtype| clip(dtype).images(std::slice::from_ref(&image)).unwrap().unit.concat());
}

#[test]
fn unet_and_autoencoder_take_f16_weights() {
    let (gpu, folder) = (gpu(), demo::folder(Path::new(demo::BUILTIN), "stable-diffusion").unwrap());
    let run = |part: &str, dtype, record: &dyn Fn(&Weights, &dyn Fn(&str, &[usize]) -> Tensor) -> Tensor| {
        let inputs = RefCell::new(vec![]);
        let weights = folder.sub(part).weights().unwrap();
        let mut plan = load(&gpu, dtype, &weights, |w| {
            let input = |name: &str, shape: &[usize]| {
                inputs.borrow_mut().push((name.to_string(), shape.iter().product::<usize>()));
                w.graph().input(name, shape, DType::F32)
            };
            w.graph().output("out", record(w, &input));
        })
        .unwrap();
        for (name, n) in inputs.into_inner() {
            let values: Vec<f32> = (0..n).map(|k| (k * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
            plan.write(&name, &values).unwrap();
        }
        plan.run().unwrap();
        plan.read("out").unwrap()
    };
    let config = UnetConfig::new(&Config::of(&folder.sub("unet")).unwrap()).unwrap();
    both("UNet", |dtype| {
        run("unet", dtype, &|w, input| {
            let time = input("time", &[1, config.timestep_width()]);
            let context = keys_and_values(w, &config, input("context", &[1, 77, config.cross_attention_dim]));
            let latents = input("x", &[1, 8, 8, config.in_channels]);
            unet(w, &config, Inputs { latents, time, guidance: None, context })
        })
    });
    let config = VaeConfig::new(&Config::of(&folder.sub("vae")).unwrap()).unwrap();
    both("autoencoder", |dtype| {
        run("vae", dtype, &|w, input| decode(w, &config, input("z", &[1, 8, 8, config.latents.channels])))
    });
}
