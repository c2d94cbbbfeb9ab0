// act(x) = x sigmoid(x)
fn act(x: vec4f) -> vec4f { return x / (1.0 + exp(-x)); }
fn dact(x: vec4f) -> vec4f { let s = 1.0 / (1.0 + exp(-x)); return s * (1.0 + x * (1.0 - s)); }
