// C of a gemm is written four columns at a time, packed as f16 two to a word: N is a multiple of four. `alias TC = vec2u`.
fn write_c(i: u32, count: u32, y: vec4f) { c[i / 4u] = to_half(y); }
