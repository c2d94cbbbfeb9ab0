// act(x) = x
fn act(x: vec4f) -> vec4f { return x; }
fn dact(x: vec4f) -> vec4f { return vec4f(1.0); }
