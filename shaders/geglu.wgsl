// y = a gelu(b), a and b the halves of each row of x. backward: da = dy gelu(b), db = dy a gelu'(b); reads x and dy.
// x, dx (rows, 2 half); y, dy (rows, half); n elements E of y; all f32 or f16 (a part in stored/). gelu and its derivative are the part act/gelu.

struct Params { n: u32, half: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<S>;
@group(0) @binding(2) var<storage, read_write> y: array<S>;

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let at = i / p.half * p.half + i;
    y[i] = store(load(x[at]) * element(act(vec4f(load(x[at + p.half])))));
}

// ---- backward

@group(0) @binding(2) var<storage, read> dy: array<S>;
@group(0) @binding(3) var<storage, read_write> dx: array<S>;

@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let at = i / p.half * p.half + i;
    let b = vec4f(load(x[at + p.half]));
    let d = load(dy[i]);
    dx[at] = store(d * element(act(b)));
    dx[at + p.half] = store(d * load(x[at]) * element(dact(b)));
}
