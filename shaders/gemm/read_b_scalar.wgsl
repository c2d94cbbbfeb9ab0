// Elements i to i + 3 of B, any i. `alias TB = f32`.
fn read_b(i: u32) -> vec4f { return vec4f(b[i], b[i + 1u], b[i + 2u], b[i + 3u]); }
