// y = act(sum of pieces + bias) + residual: what ends a product whose inner size was cut (gemm/result.wgsl).
// pieces (splits, n) in elements E, f32; bias (width); residual, y (n), f32 or f16 (a part in stored/).

struct Params { n: u32, splits: u32, width: u32, bias: u32, bias_first: u32, residual: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pieces: array<E>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<S>;
@group(0) @binding(4) var<storage, read_write> y: array<S>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    var sum = pieces[i];
    for (var s = 1u; s < p.splits; s++) { sum += pieces[s * p.n + i]; }
    let at = (p.bias_first + i % p.width * u32(EACH)) * p.bias;
    let b = vec4f(bias[at], bias[at + 1u], bias[at + 2u], bias[at + 3u]);
    let z = act(vec4f(sum) + select(vec4f(), b, p.bias == 1u));
    y[i] = store(element(z) + select(E(), load(residual[i * p.residual]), p.residual == 1u));
}
