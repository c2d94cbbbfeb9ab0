// Elements i to i + 3 of B, packed as f16 two to a word, i a multiple of four. `alias TB = vec2u`.
fn read_b(i: u32) -> vec4f { return from_half(b[i / 4u]); }
