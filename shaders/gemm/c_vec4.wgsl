// C of a gemm is written four columns at a time: N is a multiple of four. `alias TC = vec4f`.
fn write_c(i: u32, count: u32, y: vec4f) { c[i / 4u] = y; }
