// Elements i to i + 3 of B, i a multiple of four. `alias TB = vec4f`.
fn read_b(i: u32) -> vec4f { return b[i / 4u]; }
