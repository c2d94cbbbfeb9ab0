// y = x / (1 - rate) where mask >= rate, else 0. The backward is the same kernel on dy. x, mask, y: n numbers, four to a thread.

struct Params { n: u32, rate: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> mask: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y[i] = select(vec4f(), x[i] / (1.0 - p.rate), mask[i] >= vec4f(p.rate)); }
}
