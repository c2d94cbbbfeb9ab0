// Elements i to i + 3 of A, i a multiple of four. `alias A = vec4f`.
fn read_a(i: u32) -> vec4f { return a[i / 4u]; }
