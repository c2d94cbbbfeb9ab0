// forward: y = act(x), element by element. backward: dx = dy act'(x); reads x and dy.
// act and dact come from a part in act/. x, y, dy, dx: n numbers, four to a thread, f32 or f16 (a part in stored/).

struct Params { n: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<S>;
@group(0) @binding(2) var<storage, read_write> y: array<S>;

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y[i] = store(act(load(x[i]))); }
}

// ---- backward

@group(0) @binding(2) var<storage, read> dy: array<S>;
@group(0) @binding(3) var<storage, read_write> dx: array<S>;

@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { dx[i] = store(load(dy[i]) * dact(load(x[i]))); }
}
