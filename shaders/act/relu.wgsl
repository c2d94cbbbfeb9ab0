// act(x) = max(x, 0)
fn act(x: vec4f) -> vec4f { return max(x, vec4f()); }
fn dact(x: vec4f) -> vec4f { return select(vec4f(), vec4f(1.0), x > vec4f()); }
