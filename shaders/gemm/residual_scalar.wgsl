// The residual of C, any number of columns.
@group(0) @binding(4) var<storage, read> residual: array<f32>;

fn residual_at(i: u32) -> vec4f { return vec4f(residual[i], residual[i + 1u], residual[i + 2u], residual[i + 3u]); }
