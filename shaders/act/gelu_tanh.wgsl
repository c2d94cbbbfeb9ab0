// act(x) = x s(x), s(x) = sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3): GELU by a hyperbolic tangent, since
// 0.5 (1 + tanh u) = sigmoid(2 u).
fn gelu_tanh_share(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-1.59576912161 * x * (1.0 + 0.044715 * x * x)));
}
fn act(x: vec4f) -> vec4f { return x * gelu_tanh_share(x); }
fn dact(x: vec4f) -> vec4f {
    let s = gelu_tanh_share(x);
    return s + x * s * (1.0 - s) * 1.59576912161 * (1.0 + 0.134145 * x * x);
}
