// act(x) = x Phi(x), Phi the normal distribution's integral: the exact (erf) form of GELU.
// WGSL has no erf: Abramowitz and Stegun 7.1.26, error below 1.5e-7.
fn normal_integral(x: vec4f) -> vec4f {
    let z = abs(x) * 0.70710678118;
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let tail = 0.5 * t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * exp(-z * z);
    return select(tail, 1.0 - tail, x > vec4f());
}
fn act(x: vec4f) -> vec4f { return x * normal_integral(x); }
fn dact(x: vec4f) -> vec4f { return normal_integral(x) + x * 0.39894228040 * exp(-0.5 * x * x); }
