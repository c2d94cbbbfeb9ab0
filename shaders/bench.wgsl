// Kernels of `kaleid bench` alone: what the adapter can do at best, and a matrix product as one would write it first.
//
// copy: y = x, n vectors. multiply_add: 8 independent chains of `steps` fused multiply-adds on vectors per thread, 64 flops per step.
// naive: C (M, N) = A (M, K) B (K, N), one thread per output.

struct Params { n: u32, m: u32, k: u32, steps: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn copy(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < p.n { y[i] = x[i]; }
}

@compute @workgroup_size(64)
fn multiply_add(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let b = x[0];
    let c = x[1];
    var v_i = x[2] + vec4f(f32(i + u_i)); //@ i
    for (var step = 0u; step < p.steps; step++) {
        v_i = fma(v_i, b, c); //@ i
    }
    var sum = vec4f();
    sum += v_i; //@ i
    y[i] = sum;
}

// ---- naive

@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(64)
fn naive(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.m * p.n { return; }
    var sum = 0.0;
    for (var k = 0u; k < p.k; k++) { sum += a[i / p.n * p.k + k] * b[k * p.n + i % p.n]; }
    c[i] = sum;
}
