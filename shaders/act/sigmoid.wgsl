// act(x) = 1 / (1 + exp(-x))
fn act(x: vec4f) -> vec4f { return 1.0 / (1.0 + exp(-x)); }
fn dact(x: vec4f) -> vec4f { let s = act(x); return s * (1.0 - s); }
