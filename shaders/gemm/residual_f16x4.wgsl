// The residual of C, packed as f16 two to a word, a number of columns that is a multiple of four.
@group(0) @binding(4) var<storage, read> residual: array<vec2u>;

fn residual_at(i: u32) -> vec4f { return from_half(residual[i / 4u]); }
