// No residual is added to C.
fn residual_at(i: u32) -> vec4f { return vec4f(); }
