//! `kaleid verify`: the goldens inside the program hold, and broken ones are named rows.

use kaleid::core::{Gpu, GpuOptions};
use kaleid::verify::{Outcome, Row, verify};
use std::path::Path;

fn run(folder: Option<&Path>) -> anyhow::Result<Vec<Row>> {
    run_in(folder, false)
}

fn run_in(folder: Option<&Path>, half: bool) -> anyhow::Result<Vec<Row>> {
    verify(&Gpu::open(&GpuOptions::from_env())?, folder, half, |row| {
        println!("{row}");
        Ok(())
    })
}

#[test]
fn goldens_of_the_program_hold() {
    for row in run(None).unwrap() {
        assert!(!matches!(row.outcome, Outcome::Fail(_)), "{row}");
    }
}

#[test]
fn goldens_of_models_that_paint_and_score_hold_in_f16() {
    let rows = run_in(None, true).unwrap();
    assert!(rows.len() >= 5, "{} rows", rows.len());
    for row in rows {
        assert!(!matches!(row.outcome, Outcome::Fail(_)), "{row}");
    }
}

#[test]
fn broken_goldens_are_rows_and_a_folder_without_any_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let none = format!("{:#}", run(Some(folder)).unwrap_err());
    assert!(none.contains("no golden here"), "{none}");
    assert!(run(Some(&folder.join("absent"))).is_err());

    let golden = Path::new("tests/golden");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    let config = std::fs::read(golden.join("clip_tiny/config.json")).unwrap();
    let tensors = std::fs::read(golden.join("clip_tiny.safetensors")).unwrap();
    write("a_no_tensors/config.json", &config);
    write("b_no_weights/config.json", &config);
    write("b_no_weights.safetensors", &tensors);
    write("c_class/config.json", br#"{"architectures": ["BertModel"]}"#);
    write("c_class/model.safetensors", &tensors);
    write("c_class.safetensors", &tensors);
    write("d_unknown.safetensors", &tensors);
    write("e_json.json", b"{\"a\": ");
    write("f_randn.json", br#"{"0": {"2": [1.0]}}"#);
    write("g_wrong.json", br#"{"0": {"2": [1.0, 2.0]}}"#);
    write("h_trajectory.json", br#"{"ddim": {"trajectory": 3}}"#);
    write("i_other.json", b"{}");
    let rows = run(Some(folder)).unwrap();
    assert_eq!(rows.len(), 9);
    let expected = [
        "a_no_tensors.safetensors is missing",
        "no weights (*.safetensors, *.gguf, *.bin, *.ckpt) in this folder",
        "the class BertModel is not known",
        "no folder d_unknown beside it, and not one of clip_vit_b32",
        "not valid JSON",
        "seed 0 does not hold counts and their draws",
        "seed 0, 2 values",
        "is missing or not what a recorded trajectory holds",
        "neither trajectories",
    ];
    for (row, part) in rows.iter().zip(expected) {
        let Outcome::Fail(reason) = &row.outcome else { panic!("{row}") };
        assert!(reason.contains(part) && !reason.contains('\n'), "{row}, not {part}");
    }
}
