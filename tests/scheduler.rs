//! Every sampler against trajectories recorded from diffusers, and the errors of a scheduler's configuration.

use kaleid::data::config::Config;
use kaleid::diffusion::{self, Scheduler};
use kaleid::verify::schedulers::replay;

#[test]
fn trajectories_equal_diffusers() {
    let records: serde_json::Value = serde_json::from_str(include_str!("golden/schedulers.json")).unwrap();
    for (name, record) in records.as_object().unwrap() {
        let error = replay(name, record).unwrap();
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: off by {error:.1e}");
    }
}

#[test]
fn every_sampler_has_a_recording() {
    let records: serde_json::Value = serde_json::from_str(include_str!("golden/schedulers.json")).unwrap();
    let recorded: Vec<&str> = records
        .as_object()
        .unwrap()
        .values()
        .map(|record| {
            let config = Config::parse("record", &record["config"].to_string()).unwrap();
            Scheduler::new(&config, record["scheduler"].as_str()).unwrap().name()
        })
        .collect();
    let lacking: Vec<&str> = diffusion::names().into_iter().filter(|name| !recorded.contains(name)).collect();
    assert_eq!(
        lacking, [""; 0],
        "samplers without a trajectory in tests/golden/schedulers.json: record it with make.py"
    );
}

/// Stable Diffusion 1.5's own file.
const SD15: &str = r#"{"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true,
    "steps_offset": 1, "trained_betas": null, "clip_sample": false}"#;

fn timesteps(name: Option<&str>, steps: usize) -> Vec<f32> {
    let config = Config::parse("scheduler_config.json", SD15).unwrap();
    Scheduler::new(&config, name).unwrap().points(steps).unwrap().timesteps
}

#[test]
fn what_other_solvers_say_stands_for_dpmpps_own_as_in_diffusers() {
    let plain = r#""beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012"#;
    let new = |more: &str, name: Option<&str>| {
        let config = Config::parse("scheduler_config.json", &format!("{{{plain}{more}}}"));
        config.and_then(|c| Scheduler::new(&c, name)).map_err(|e| e.to_string())
    };
    let timesteps = |more: &str, name| new(more, name).unwrap().points(10).unwrap().timesteps;
    let own = timesteps("", Some("dpmpp-2m"));
    let saved = r#", "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint", "solver_order": 2, "lambda_min_clipped": -Infinity, "variance_type": null"#;
    assert_eq!(timesteps(saved, None), own);
    for other in [
        r#", "_class_name": "UniPCMultistepScheduler", "solver_type": "bh2""#,
        r#", "_class_name": "UniPCMultistepScheduler", "solver_type": "bh1", "solver_order": 2.0"#,
        r#", "_class_name": "DEISMultistepScheduler", "algorithm_type": "deis", "solver_type": "logrho""#,
        r#", "_class_name": "DDPMScheduler", "variance_type": "fixed_small", "clip_sample_range": 1.0"#,
        // Less than any timestep has.
        r#", "_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1"#,
    ] {
        assert_eq!(timesteps(other, Some("dpmpp-2m")), own, "{other}");
    }
    let refused = |more, says| {
        let error = new(more, Some("dpmpp-2m")).unwrap_err();
        assert!(error.contains(says), "{error}");
    };
    refused(r#", "lambda_min_clipped": -1.5"#, "lambda_min_clipped = -1.5 is not supported");
    refused(r#", "lambda_min_clipped": NaN"#, "lambda_min_clipped = \"NaN\" must be a number");
    refused(r#", "variance_type": "learned_range""#, "variance_type = \"learned_range\" is not supported");
    refused(r#", "solver_type": "heun""#, "solver_type = \"heun\" is not supported");
    let error = new(&saved.replace("-Infinity", "Infinity"), None).unwrap_err();
    assert!(error.contains("lambda_min_clipped = \"Infinity\" must be a number"), "{error}");
}

#[test]
fn another_scheduler_takes_its_own_defaults_for_absent_keys() {
    assert_eq!(timesteps(None, 50)[..4], [981.0, 961.0, 961.0, 941.0]);
    assert_eq!(timesteps(Some("ddim"), 20)[..2], [951.0, 901.0]);
    assert_eq!(timesteps(Some("euler"), 20)[0], 999.0);
    assert_eq!(timesteps(Some("lcm"), 8), [999.0, 879.0, 759.0, 639.0, 499.0, 379.0, 259.0, 139.0]);
    let karras = [999.0, 916.0, 815.0, 687.0, 523.0, 327.0, 146.0, 41.0, 7.0, 0.0];
    assert_eq!(timesteps(Some("dpmpp-2m-karras"), 10), karras);
    for name in diffusion::names() {
        for steps in [1, 2, 3, 50] {
            assert!(timesteps(Some(name), steps).iter().all(|t| (0.0..1000.0).contains(t)), "{name} {steps}");
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let error = |text: &str, name: Option<&str>| {
        let config = Config::parse("scheduler_config.json", text).unwrap();
        Scheduler::new(&config, name).unwrap_err().to_string()
    };
    let unknown = error(r#"{"_class_name": "SASolverScheduler"}"#, None);
    let says = r#"scheduler_config.json: _class_name = "SASolverScheduler" is not supported: choose another with --scheduler"#;
    assert_eq!(unknown, says);
    let unknown = error(SD15, Some("sa-solver"));
    assert!(unknown.starts_with(r#"scheduler "sa-solver" is not known; choose one of ddim, pndm"#));
    let bh1 = error(r#"{"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}"#, None);
    assert_eq!(bh1, r#"scheduler_config.json: solver_type = "bh1" is not supported"#);
    let third = error(r#"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#, None);
    assert_eq!(third, "scheduler_config.json: solver_order = 3 is not supported");
    let sde = r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": true}"#;
    let sde = Config::parse("scheduler_config.json", sde).unwrap();
    assert_eq!(Scheduler::new(&sde, None).unwrap().name(), "dpmpp-2m-sde-karras");
    let prediction = error(r#"{"_class_name": "DDIMScheduler", "prediction_type": "sample"}"#, None);
    assert_eq!(prediction, r#"scheduler_config.json: prediction_type = "sample" is not supported"#);
    let order = error(r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#, None);
    assert_eq!(order, "scheduler_config.json: solver_order = 3 is not supported");
    assert!(error(r#"{"_class_name": "DDIMScheduler", "beta_end": 1.5}"#, None).contains("beta_end = 1.5"));
    assert!(error(r#"{"_class_name": "PNDMScheduler"}"#, None).contains("skip_prk_steps = false"));
    assert!(error("{}", None).contains("_class_name is missing"));
    let config = Config::parse("scheduler_config.json", SD15).unwrap();
    let scheduler = Scheduler::new(&config, Some("lcm")).unwrap();
    assert!(scheduler.points(51).err().unwrap().to_string().contains("takes 1 to 50"));
}

#[test]
fn no_number_of_steps_panics() {
    let spacings = ["leading", "linspace", "trailing"];
    for (name, spacing) in diffusion::names().into_iter().flat_map(|n| spacings.map(|s| (n, s))) {
        for train in [1, 2, 7, 20] {
            let text = format!(
                r#"{{"num_train_timesteps": {train}, "timestep_spacing": "{spacing}", "skip_prk_steps": true, "steps_offset": 1}}"#
            );
            let config = Config::parse("scheduler_config.json", &text).unwrap();
            let scheduler = Scheduler::new(&config, Some(name)).unwrap();
            assert!(scheduler.points(0).is_err() && scheduler.points(train + 1).is_err());
            for steps in 1..=train {
                let mut evaluations = 0;
                let model = |_: &[f32], _: f32, _: f32| {
                    evaluations += 1;
                    Ok(vec![0.3, 0.1])
                };
                scheduler.sample(steps, &mut [0.5, -1.0], model, || Ok(vec![0.1, 0.2])).unwrap();
                assert_eq!(evaluations, scheduler.points(steps).unwrap().timesteps.len(), "{name} {steps}");
            }
        }
    }
}

#[test]
fn a_trajectory_that_is_not_finite_does_not_hold() {
    let records: serde_json::Value = serde_json::from_str(include_str!("golden/schedulers.json")).unwrap();
    let (name, record) = records.as_object().unwrap().iter().next().unwrap();
    let mut record = record.clone();
    record["trajectory"][0][0] = serde_json::json!(1e300);
    assert!(replay(name, &record).unwrap() > 1.0);
}
