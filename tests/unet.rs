//! Forms of the UNet and the autoencoder that no golden has: sizes that do not halve evenly, other blocks, timesteps of their
//! own for each sample, gradients, and configurations that are not supported.

use kaleid::core::{DType, Gpu, GpuOptions, Graph, Plan, Store, Weights};
use kaleid::data::checkpoint::Checkpoint;
use kaleid::data::config::Config;
use kaleid::data::synthetic;
use kaleid::models::unet::{Inputs, UnetConfig, keys_and_values, unet};
use kaleid::models::vae::VaeConfig;
use serde_json::{Value, json};

fn small() -> Value {
    json!({"block_out_channels": [16, 32], "cross_attention_dim": 8, "attention_head_dim": 2, "layers_per_block": 1,
        "norm_num_groups": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]})
}

fn with(key: &str, value: Value) -> Value {
    let mut config = small();
    config[key] = value;
    config
}

fn config(value: &Value) -> anyhow::Result<UnetConfig> {
    UnetConfig::new(&Config::parse("config.json", &value.to_string())?)
}

/// A recorded UNet with a loss over its output, and the names of its parameters.
struct Net {
    plan: Plan,
    store: Store,
    params: Vec<String>,
}

const CONTEXT: [usize; 3] = [2, 3, 8];

/// Records `cfg` on two latents of height `h` and width `w`; one `timestep` for both, or one each.
fn record(cfg: &UnetConfig, h: usize, w: usize, timesteps: &[f32], gradients: bool) -> Net {
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    let g = Graph::new(gpu.caps());
    let weights = Weights::new(&g, DType::F32);
    let input = |name: &str, shape: &[usize]| g.input(name, shape, DType::F32);
    let x = input("x", &[2, h, w, 4]);
    let time = input("time", &[timesteps.len(), cfg.timestep_width()]);
    let context = keys_and_values(&weights, cfg, input("context", &CONTEXT));
    let inputs = Inputs { latents: x, time, guidance: None, context };
    let out = unet(&weights, cfg, inputs);
    assert_eq!(out.shape(), x.shape());
    let loss = g.mse_loss(out, x);
    g.output("out", out);
    g.output("loss", loss);
    let params = weights.params();
    if gradients {
        let tensors: Vec<_> = params.iter().map(|p| p.tensor).collect();
        for (param, gradient) in params.iter().zip(g.backward(loss, &tensors)) {
            g.output(&param.name, gradient);
        }
    }
    let mut store = Store::new(&gpu);
    store.load(&Checkpoint::synthetic(), &weights.params()).unwrap();
    let names = params.iter().map(|p| p.name.clone()).collect();
    let mut plan = Plan::new(&gpu, g, &store).unwrap();
    plan.write("x", &synthetic::tensor("conv.x", &[2 * h * w * 4, 1])).unwrap();
    plan.write("context", &synthetic::tensor("conv.context", &[CONTEXT.iter().product(), 1])).unwrap();
    plan.write("time", &cfg.timestep_embedding(timesteps)).unwrap();
    Net { plan, store, params: names }
}

fn output(config: &UnetConfig, h: usize, w: usize, timesteps: &[f32]) -> Vec<f32> {
    let mut net = record(config, h, w, timesteps, false);
    net.plan.run().unwrap();
    net.plan.read("out").unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn sizes_blocks_and_timesteps() {
    let cfg = config(&small()).unwrap();
    let whole = output(&cfg, 7, 5, &[12.5]);
    assert!(whole.iter().all(|v| v.is_finite()));
    assert!(close(&output(&cfg, 7, 5, &[12.5, 12.5]), &whole), "a timestep for each sample");
    let each = output(&cfg, 7, 5, &[12.5, 900.0]);
    let half = whole.len() / 2;
    assert!(close(&each[..half], &whole[..half]) && !close(&each[half..], &whole[half..]));

    // What has no meaning for this network changes nothing; the rest does.
    for (key, value) in [("upcast_attention", json!(true)), ("attention_head_dim", json!([2, 4]))] {
        let same = key == "upcast_attention";
        let cfg = config(&with(key, value)).unwrap();
        assert_eq!(close(&output(&cfg, 7, 5, &[12.5]), &whole), same, "{key}");
    }
    for (key, value) in [
        ("mid_block_type", Value::Null),
        ("mid_block_type", json!("UNetMidBlock2D")),
        ("layers_per_block", json!([2, 1])),
        ("transformer_layers_per_block", json!([2, 1])),
        ("center_input_sample", json!(true)),
        ("act_fn", json!("gelu")),
        ("flip_sin_to_cos", json!(false)),
        ("freq_shift", json!(1)),
        ("conv_in_kernel", json!(1)),
    ] {
        let cfg = config(&with(key, value.clone())).unwrap();
        let other = output(&cfg, 6, 4, &[12.5]);
        assert!(other.iter().all(|v| v.is_finite()), "{key} = {value}");
    }
}

#[test]
fn gradients_are_directional_derivatives() {
    let cfg = config(&small()).unwrap();
    let mut net = record(&cfg, 4, 6, &[12.5, 900.0], true);
    net.plan.run().unwrap();
    let mut slope = 0.0;
    let mut values = Vec::new();
    for name in &net.params {
        let (shape, value) = net.store.read(name).unwrap();
        let direction = synthetic::tensor(&format!("direction.{name}"), &shape);
        // Gradients come in the device's layout.
        let on_device = match shape[..] {
            [o, i, h, w] => kaleid::data::nchw_to_nhwc(&direction, [o, i, h, w]),
            _ => direction.clone(),
        };
        let gradient = net.plan.read(name).unwrap();
        slope += gradient.iter().zip(&on_device).map(|(g, d)| f64::from(g * d)).sum::<f64>();
        values.push((shape, value, direction));
    }
    let mut loss_at = |t: f32| {
        for (name, (shape, value, direction)) in net.params.iter().zip(&values) {
            let moved: Vec<f32> = value.iter().zip(direction).map(|(v, d)| v + t * d).collect();
            net.store.write(name, shape, &moved).unwrap();
        }
        net.plan.run().unwrap();
        f64::from(net.plan.read("loss").unwrap()[0])
    };
    let t = 1e-3;
    let measured = (loss_at(t) - loss_at(-t)) / f64::from(2.0 * t);
    assert!((measured - slope).abs() < 1e-2 * measured.abs(), "gradient {slope}, measured {measured}");
}

#[test]
fn what_is_not_supported_is_named() {
    let error = |key: &str, value: Value| config(&with(key, value)).unwrap_err().to_string();
    for (key, value) in [
        ("class_embed_type", json!("timestep")),
        ("addition_embed_type", json!("text_time")),
        ("encoder_hid_dim", json!(32)),
        ("only_cross_attention", json!(true)),
        ("dual_cross_attention", json!(true)),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("time_embedding_type", json!("fourier")),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("act_fn", json!("mish")),
        ("conv_in_kernel", json!(2)),
        ("num_attention_heads", json!(4)),
    ] {
        let expected = format!("config.json: {key} = {value} is not supported");
        assert_eq!(error(key, value), expected);
    }
    let blocks = error("down_block_types", json!(["AttnDownBlock2D", "DownBlock2D"]));
    assert_eq!(blocks, "config.json: down_block_types = \"AttnDownBlock2D\" is not supported");
    assert!(error("norm_num_groups", json!(5)).contains("norm_num_groups = 5 does not divide 16 channels"));
    assert!(error("attention_head_dim", json!(3)).contains("attention_head_dim = 3 does not divide 16"));
    assert!(error("attention_head_dim", json!([2])).contains("must have 2 entries"));
    assert!(error("block_out_channels", json!([16])).contains("1 levels, down_block_types 2"));

    let vae =
        |text: &str| VaeConfig::new(&Config::parse("config.json", text).unwrap()).unwrap_err().to_string();
    let block = vae(r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#);
    assert_eq!(block, "config.json: down_block_types = \"AttnDownEncoderBlock2D\" is not supported");
    assert!(vae(r#"{"latents_mean": [0.1]}"#).contains("latents_mean = [0.1] is not supported"));
}
