// op(a, b) = a + b
fn op(a: vec4f, b: vec4f) -> vec4f { return a + b; }
