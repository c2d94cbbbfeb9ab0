// y = x in another type: to_f16 packs f32 two to a word, to_f32 unpacks (part stored/f16). n numbers, four to a thread.

struct Params { n: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<E>;
@group(0) @binding(2) var<storage, read_write> y: array<S>;

@compute @workgroup_size(64)
fn to_f16(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y[i] = store(x[i]); }
}

// ---- to_f32

@group(0) @binding(1) var<storage, read> x_f16: array<S>;
@group(0) @binding(2) var<storage, read_write> y_f32: array<E>;

@compute @workgroup_size(64)
fn to_f32(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y_f32[i] = load(x_f16[i]); }
}
