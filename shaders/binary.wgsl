// y = op(a, b), element by element; op comes from a part in binary/.
// same: a, b and y have n numbers, four to a thread, all f32 or all f16 (a part in stored/). broadcast: y is (n0, n1, n2, n3), f32, and a
// dimension of size one repeats, stride 0; broadcast4: the same where n3 is a multiple of four, four to a thread, which shares the
// arithmetic of indices.

struct Params { n: u32, n1: u32, n2: u32, n3: u32, a0: u32, a1: u32, a2: u32, a3: u32, b0: u32, b1: u32, b2: u32, b3: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a4: array<S>;
@group(0) @binding(2) var<storage, read> b4: array<S>;
@group(0) @binding(3) var<storage, read_write> y4: array<S>;

@compute @workgroup_size(64)
fn same(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y4[i] = store(op(load(a4[i]), load(b4[i]))); }
}

// ---- broadcast and broadcast4, which writes y4

/// First elements of a and b for element i of y.
fn places(i: u32) -> vec2u {
    let at = vec4u(i / (p.n3 * p.n2 * p.n1), i / (p.n3 * p.n2) % p.n1, i / p.n3 % p.n2, i % p.n3);
    return vec2u(dot(at, vec4u(p.a0, p.a1, p.a2, p.a3)), dot(at, vec4u(p.b0, p.b1, p.b2, p.b3)));
}

@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn broadcast(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let at = places(i);
    y[i] = op(vec4f(a[at.x]), vec4f(b[at.y])).x;
}

@compute @workgroup_size(64)
fn broadcast4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if 4u * i >= p.n { return; }
    let at = places(4u * i);
    let u = vec4f(a[at.x], a[at.x + p.a3], a[at.x + 2u * p.a3], a[at.x + 3u * p.a3]);
    let v = vec4f(b[at.y], b[at.y + p.b3], b[at.y + 2u * p.b3], b[at.y + 3u * p.b3]);
    y4[i] = store(op(u, v));
}
