// act(x) = e^x
fn act(x: vec4f) -> vec4f { return exp(x); }
fn dact(x: vec4f) -> vec4f { return exp(x); }
