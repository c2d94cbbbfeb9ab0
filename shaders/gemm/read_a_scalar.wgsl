// Elements i to i + 3 of A, any i. `alias TA = f32`.
fn read_a(i: u32) -> vec4f { return vec4f(a[i], a[i + 1u], a[i + 2u], a[i + 3u]); }
