use crate::harness::{Arr, Case, compare, gpu, random};
use kaleid::core::{DType, Graph, Init, Plan, Store};

/// Ids below `rows`, many of them twice and some never.
fn ids(n: usize, rows: usize) -> Vec<u32> {
    (0..n).map(|i| (i * i * 7 + 3 * i) as u32 % rows as u32).collect()
}

const SIZES: [[usize; 3]; 6] = [[5, 9, 7], [40, 12, 8], [1, 1, 1], [3, 1, 4], [100, 300, 2], [2, 700, 20]];

#[test]
fn gather_rows_picks_rows_and_its_gradient_adds_up_over_equal_ids() {
    for [rows, n, c] in SIZES {
        let ids = ids(n, rows);
        Case::new("gather_rows", &[&[rows, c]]).words("ids", &ids).check(
            |g, x| g.gather_rows(x[0], g.input("ids", &[n], DType::U32)),
            |x| Arr::from_fn(&[n, c], |[_, _, i, k]| x[0].at([0, 0, ids[i] as usize, k])),
        );
    }
    let ids = ids(6, 5);
    Case::new("gather_rows", &[&[5, 3]]).words("ids", &ids).check(
        |g, x| g.gather_rows(x[0], g.input("ids", &[2, 3], DType::U32)),
        |x| Arr::from_fn(&[2, 3, 3], |[_, i, j, k]| x[0].at([0, 0, ids[i * 3 + j] as usize, k])),
    );
}

#[test]
fn scatter_rows_adds_rows_with_equal_ids() {
    for [rows, n, c] in SIZES {
        let ids = ids(n, rows);
        Case::new("scatter_rows", &[&[n, c]]).words("ids", &ids).check(
            |g, x| g.scatter_rows(x[0], g.input("ids", &[n], DType::U32), rows),
            |x| {
                Arr::from_fn(&[rows, c], |[_, _, r, k]| {
                    (0..n).filter(|&i| ids[i] as usize == r).map(|i| x[0].at([0, 0, i, k])).sum()
                })
            },
        );
    }
}

#[test]
fn gather_rows_reads_tables_of_f16() {
    for c in [8, 5] {
        let (rows, n) = (7, 20);
        let ids = ids(n, rows);
        // Multiples of 1/8 are exact in f16.
        let table: Vec<f32> = (0..rows * c).map(|i| (random(1, i) * 16.0).round() as f32 / 8.0).collect();
        let g = Graph::new(gpu().caps());
        let t = g.state("table", &[rows, c], DType::F16, Init::Loaded);
        g.output("y", g.gather_rows(t, g.input("ids", &[n], DType::U32)));
        let mut store = Store::new(gpu());
        store.write_as("table", &[rows, c], DType::F16, &table).unwrap();
        let mut plan = Plan::new(gpu(), g, &store).unwrap();
        plan.write_u32("ids", &ids).unwrap();
        plan.run().unwrap();
        let want: Vec<f64> =
            ids.iter().flat_map(|&r| &table[r as usize * c..][..c]).map(|&v| v as f64).collect();
        compare("gather_rows of f16", &plan.read("y").unwrap(), &want, 0.0);
    }
}

#[test]
fn write_rows_fills_a_cache_in_place_and_drops_what_lies_past_its_end() {
    for (lead, length, count, c) in [(3, 7, 2, 8), (1, 5, 1, 3), (2, 4, 3, 4)] {
        let g = Graph::new(gpu().caps());
        let state = g.state("cache", &[lead, length, c], DType::F32, Init::Zeros);
        let rows = g.input("rows", &[lead, count, c], DType::F32);
        g.output("y", g.write_rows(state, rows, g.input("at", &[1], DType::U32)));
        let store = Store::new(gpu());
        let mut plan = Plan::new(gpu(), g, &store).unwrap();
        let mut want = vec![0.0; lead * length * c];
        for at in [0, 2, length - 1] {
            let rows: Vec<f32> = (0..lead * count * c).map(|k| random(at as u64, k) as f32).collect();
            plan.write("rows", &rows).unwrap();
            plan.write_u32("at", &[at as u32]).unwrap();
            plan.run().unwrap();
            for b in 0..lead {
                for t in (0..count).filter(|t| at + t < length) {
                    let (to, from) = ((b * length + at + t) * c, (b * count + t) * c);
                    for k in 0..c {
                        want[to + k] = f64::from(rows[from + k]);
                    }
                }
            }
            compare("write_rows", &plan.read("y").unwrap(), &want, 0.0);
        }
    }
}
