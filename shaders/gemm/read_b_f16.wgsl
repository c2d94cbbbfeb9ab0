// Elements i to i + 3 of B, packed as f16 two to a word, any i. `alias TB = u32`.
fn half_b(i: u32) -> f32 { return from_half_word(b[i / 2u], i); }

fn read_b(i: u32) -> vec4f { return vec4f(half_b(i), half_b(i + 1u), half_b(i + 2u), half_b(i + 3u)); }
