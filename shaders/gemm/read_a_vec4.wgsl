// Elements i to i + 3 of A, i a multiple of four. `alias TA = vec4f`.
fn from_a(v: TA) -> vec4f { return v; }
fn read_a(i: u32) -> vec4f { return from_a(a[i / 4u]); }
