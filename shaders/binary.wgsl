// y = op(a, b), element by element; op comes from a part in binary/.
// same: a, b and y have n numbers, four to a thread. broadcast: y is (n0, n1, n2, n3) and a dimension of size one repeats, stride 0.

struct Params { n: u32, n1: u32, n2: u32, n3: u32, a0: u32, a1: u32, a2: u32, a3: u32, b0: u32, b1: u32, b2: u32, b3: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a4: array<vec4f>;
@group(0) @binding(2) var<storage, read> b4: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y4: array<vec4f>;

@compute @workgroup_size(64)
fn same(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y4[i] = op(a4[i], b4[i]); }
}

@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn broadcast(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let i3 = i % p.n3;
    let i2 = i / p.n3 % p.n2;
    let i1 = i / (p.n3 * p.n2) % p.n1;
    let i0 = i / (p.n3 * p.n2 * p.n1);
    let u = a[i0 * p.a0 + i1 * p.a1 + i2 * p.a2 + i3 * p.a3];
    let v = b[i0 * p.b0 + i1 * p.b1 + i2 * p.b2 + i3 * p.b3];
    y[i] = op(vec4f(u), vec4f(v)).x;
}
