// Optimizer steps on one parameter, in place, four elements to a thread. All follow torch.optim.
//   adam: g' = g + decay x (or, decoupled: x *= 1 - lr decay); m += (1 - beta1) (g' - m); v = beta2 v + (1 - beta2) g'^2;
//         x -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)        (Kingma and Ba 2015; decoupled: Loshchilov and Hutter 2019)
//   sgd:  g' = g + decay x; m = momentum m + g'; x -= lr m
//   ema:  x = r x + (1 - r) g
// g: the gradient (ema: the new value); lr, t, r: one number each. log_beta is ln(beta).

struct Params { n: u32, decoupled: u32, beta1: f32, beta2: f32, log_beta1: f32, log_beta2: f32, eps: f32, decay: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> lr: array<f32>;
@group(0) @binding(3) var<storage, read> t: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> v: array<vec4f>;

/// 1 - e^x without the loss of digits near zero, where beta^t is close to one.
fn one_minus_exp(x: f32) -> f32 {
    return select(1.0 - exp(x), -x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x / 120.0)))), abs(x) < 0.1);
}

@compute @workgroup_size(64)
fn adam(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= div_up(p.n, 4u) { return; }
    let coupled = p.decoupled == 0u;
    let g1 = g[i] + select(0.0, p.decay, coupled) * x[i];
    let x1 = x[i] * select(1.0 - lr[0] * p.decay, 1.0, coupled);
    let m1 = m[i] + (1.0 - p.beta1) * (g1 - m[i]);
    let v1 = p.beta2 * v[i] + (1.0 - p.beta2) * g1 * g1;
    m[i] = m1;
    v[i] = v1;
    let root = sqrt(v1) / sqrt(one_minus_exp(t[0] * p.log_beta2));
    x[i] = x1 - lr[0] / one_minus_exp(t[0] * p.log_beta1) * m1 / (root + p.eps);
}

// ---- sgd

struct Sgd { n: u32, momentum: f32, decay: f32 }

@group(0) @binding(0) var<uniform> s: Sgd;
@group(0) @binding(3) var<storage, read_write> x_sgd: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m_sgd: array<vec4f>;

@compute @workgroup_size(64)
fn sgd(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= div_up(s.n, 4u) { return; }
    let m1 = s.momentum * m_sgd[i] + g[i] + s.decay * x_sgd[i];
    m_sgd[i] = m1;
    x_sgd[i] -= lr[0] * m1;
}

// ---- ema

@group(0) @binding(2) var<storage, read> r: array<f32>;
@group(0) @binding(3) var<storage, read_write> x_ema: array<vec4f>;

@compute @workgroup_size(64)
fn ema(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { x_ema[i] = g[i] + r[0] * (x_ema[i] - g[i]); }
}
