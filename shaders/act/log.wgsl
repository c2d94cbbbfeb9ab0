// act(x) = ln x
fn act(x: vec4f) -> vec4f { return log(x); }
fn dact(x: vec4f) -> vec4f { return 1.0 / x; }
