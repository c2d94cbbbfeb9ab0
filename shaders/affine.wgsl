// y = scale x + shift, element by element. x, y: n numbers, four to a thread, f32 or f16 (a part in stored/).

struct Params { n: u32, scale: f32, shift: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<S>;
@group(0) @binding(2) var<storage, read_write> y: array<S>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y[i] = store(p.scale * load(x[i]) + p.shift); }
}
