// Elements i to i + 3 of A, packed as f16 two to a word, i a multiple of four. `alias TA = vec2u`.
fn from_a(v: TA) -> vec4f { return from_half(v); }
fn read_a(i: u32) -> vec4f { return from_a(a[i / 4u]); }
