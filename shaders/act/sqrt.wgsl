// act(x) = sqrt(x)
fn act(x: vec4f) -> vec4f { return sqrt(x); }
fn dact(x: vec4f) -> vec4f { return 0.5 / sqrt(x); }
