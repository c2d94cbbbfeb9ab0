//! Mistakes of who writes a model panic when the graph is built, with the shapes; what an adapter cannot do is an error in one
//! line that says what to change.

use kaleid::core::{Arch, Caps, Class, DType, Gpu, GpuOptions, Graph, Init, Plan, Store};
use kaleid::ops::{Adam, Attention, Conv};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Text of the panic of `record`.
fn panic_of(record: impl FnOnce(&Graph)) -> String {
    let g = Graph::new(&Caps::nominal(Class::Software, Arch::Other));
    let panic = catch_unwind(AssertUnwindSafe(|| record(&g))).expect_err("recording must panic");
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).expect("a text")
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    assert!(words.iter().all(|w| text.contains(w)), "{words:?} not all in: {text}");
}

#[test]
fn shapes_that_do_not_fit_panic_with_the_shapes() {
    let x = |g: &Graph, shape: &[usize]| g.input("x", shape, DType::F32);
    says(&panic_of(|g| _ = g.add(x(g, &[2, 3]), x(g, &[4]))), &["[2, 3]", "[4]"]);
    says(&panic_of(|g| _ = g.matmul(x(g, &[2, 3]), x(g, &[4, 5]))), &["[2, 3]", "[4, 5]"]);
    says(&panic_of(|g| _ = g.linear(x(g, &[2, 3]), x(g, &[5, 4]), None)), &["3", "4"]);
    says(&panic_of(|g| _ = g.reshape(x(g, &[2, 3]), &[7])), &["[2, 3]", "[7]"]);
    says(&panic_of(|g| _ = g.slice(x(g, &[2, 3]), 1, 2, 2)), &["[2, 3]"]);
    says(&panic_of(|g| _ = g.concat(&[x(g, &[2, 3]), x(g, &[3, 3])], 1)), &["[2, 3]", "[3, 3]"]);
    says(&panic_of(|g| _ = g.permute(x(g, &[2, 3]), &[0, 0])), &["[2, 3]", "[0, 0]"]);
    says(
        &panic_of(|g| _ = g.conv2d(x(g, &[1, 8, 8, 3]), x(g, &[4, 3, 3, 5]), Conv::same(3))),
        &["[1, 8, 8, 3]", "[4, 3, 3, 5]"],
    );
    says(
        &panic_of(|g| {
            let k = x(g, &[1, 4, 3, 8]);
            g.attention(x(g, &[1, 4, 2, 8]), k, k, Attention::default());
        }),
        &["[1, 4, 2, 8]", "[1, 4, 3, 8]"],
    );
    says(
        &panic_of(|g| {
            _ = g.group_norm(x(g, &[1, 4, 6]), 4, x(g, &[6]), x(g, &[6]), 1e-5, Default::default())
        }),
        &["[1, 4, 6]", "4"],
    );
    says(&panic_of(|g| _ = x(g, &[2, 0])), &["[2, 0]"]);
}

#[test]
fn gradients_that_cannot_be_are_panics_not_zeros() {
    let text = panic_of(|g| {
        let x = g.input("x", &[2, 4], DType::F32);
        let _tower = g.scope("tower");
        let y = g.rms_norm(x, g.constant(&[4], &[1.0; 4]), 1e-5);
        g.backward(y, &[x]);
    });
    says(&text, &["scalar", "[2, 4]"]);
    let text = panic_of(|g| {
        let x = g.input("x", &[4, 8], DType::F32);
        let _tower = g.scope("tower");
        let y = g.less(x, g.constant(&[1], &[0.5]));
        g.backward(g.sum(y, &[0, 1]), &[x]);
    });
    says(&text, &["no backward", "less", "tower"]);
    let text = panic_of(|g| {
        let [x, one] = [g.input("x", &[4], DType::F32), g.constant(&[1], &[1.0])];
        g.adam(&[(x, x)], one, one, Adam::default());
    });
    says(&text, &["[4]", "no state"]);
    let text = panic_of(|g| {
        let (w, x) = (g.state("w", &[4], DType::F32, Init::Zeros), g.input("x", &[4], DType::F32));
        g.assign(w, x);
        g.add(w, x);
    });
    says(&text, &["overwritten"]);
}

#[test]
fn what_the_adapter_cannot_hold_is_refused_before_memory_is_taken() {
    let gpu = Gpu::open(&GpuOptions::from_env()).unwrap();
    let refused = |g: Graph| {
        let error = Plan::new(&gpu, g, &Store::new(&gpu)).err().expect("a plan that cannot be");
        let text = format!("{error:#}");
        says(&text, &["MiB", "smaller size or batch"]);
        assert!(!text.contains('\n'), "{text}");
        text
    };
    // One tensor larger than a binding.
    let g = Graph::new(gpu.caps());
    let n = gpu.caps().binding_bytes as usize / 4 / 1024 + 1;
    g.output("y", g.exp(g.input("large", &[n, 1024], DType::F32)));
    says(&refused(g), &["the plan needs"]);
    // Small ones, all needed at once, larger together than the memory of any machine that runs on its CPU.
    if gpu.caps().class == Class::Software {
        let g = Graph::new(gpu.caps());
        let n = gpu.caps().binding_bytes as usize / 4 / 1024 / 2;
        let made: Vec<_> =
            (0..1 << 14).map(|i| g.exp(g.input(&i.to_string(), &[n, 1024], DType::F32))).collect();
        made.into_iter().enumerate().for_each(|(i, y)| g.output(&format!("y{i}"), y));
        says(&refused(g), &["this machine has"]);
    }
    // More numbers than a kernel can count, or than there are bytes.
    for shape in [[1 << 20, 1 << 20], [1 << 40, 1 << 40]] {
        let g = Graph::new(gpu.caps());
        g.output("y", g.exp(g.input("large", &shape, DType::F32)));
        let error = Plan::new(&gpu, g, &Store::new(&gpu)).err().unwrap().to_string();
        says(&error, &["unary_forward", "would take a size of", "smaller size or batch"]);
    }
    // A parameter that nobody loaded.
    let g = Graph::new(gpu.caps());
    g.output("y", g.exp(g.state("net.weight", &[4], DType::F32, Init::Loaded)));
    let error = Plan::new(&gpu, g, &Store::new(&gpu)).err().unwrap().to_string();
    says(&error, &["net.weight", "no values"]);
}
