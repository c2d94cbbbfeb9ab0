// act(x) = x sigmoid(1.702 x), the activation of OpenAI's CLIP
fn act(x: vec4f) -> vec4f { return x / (1.0 + exp(-1.702 * x)); }
fn dact(x: vec4f) -> vec4f { let s = 1.0 / (1.0 + exp(-1.702 * x)); return s * (1.0 + 1.702 * x * (1.0 - s)); }
