// act(x) = tanh(x); the clamp keeps drivers whose tanh is a quotient of exponentials from giving NaN
fn act(x: vec4f) -> vec4f { return tanh(clamp(x, vec4f(-15.0), vec4f(15.0))); }
fn dact(x: vec4f) -> vec4f { let y = act(x); return 1.0 - y * y; }
