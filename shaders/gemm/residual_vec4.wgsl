// The residual of C, a number of columns that is a multiple of four.
@group(0) @binding(4) var<storage, read> residual: array<vec4f>;

fn residual_at(i: u32) -> vec4f { return residual[i / 4u]; }
