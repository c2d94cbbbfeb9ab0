use crate::harness::{Arr, Case, compare, gpu};
use kaleid::core::{DType, Graph, Plan, Store};
use kaleid::data::rng::Key;

#[test]
fn random_numbers_are_those_of_the_cpu() {
    for (n, key) in
        [(1003, Key::new(7, 3, "test")), (1, Key::new(u64::MAX, u32::MAX, "")), (70_000, Key::new(0, 0, "x"))]
    {
        let g = Graph::new(gpu().caps());
        let k = g.input("key", &[4], DType::U32);
        g.output("uniform", g.random_uniform(k, &[n]));
        g.output("normal", g.random_normal(k, &[n]));
        let mut plan = Plan::new(gpu(), g, &Store::new(gpu())).unwrap();
        plan.write_u32("key", &key.0).unwrap();
        plan.run().unwrap();
        let uniform: Vec<f32> = (0..n as u32).map(|i| key.uniform(i)).collect();
        assert!(plan.read("uniform").unwrap() == uniform, "uniform numbers of {key:?}");
        let normal: Vec<f64> = (0..n as u32).map(|i| key.normal(i) as f64).collect();
        compare("normal", &plan.read("normal").unwrap(), &normal, 1e-5);
    }
}

#[test]
fn dropout_scales_what_it_keeps() {
    let shapes: [&[usize]; 3] = [&[5, 7], &[1], &[2, 3, 4, 8]];
    for s in shapes {
        for p in [0.0, 0.25, 0.9] {
            let key = Key::new(1, 2, "dropout");
            let n = s.iter().product::<usize>() as u32;
            let keep = Arr::new(s, (0..n).map(|i| (key.uniform(i) >= p) as u32 as f64).collect());
            Case::new("dropout", &[s]).words("key", &key.0).check(
                |g, x| {
                    let mask = g.random_uniform(g.input("key", &[4], DType::U32), s);
                    g.dropout(x[0], mask, p)
                },
                |x| Arr::from_fn(s, |i| x[0].at(i) * keep.at(i) / (1.0 - p as f64)),
            );
        }
    }
}
