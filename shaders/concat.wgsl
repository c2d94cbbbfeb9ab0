// y = [a b] along one dimension: a (outer, na), b (outer, nb) -> y (outer, na + nb). An element is a float, or four neighbouring ones
// (alias E).

struct Params { n: u32, na: u32, nb: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<E>;
@group(0) @binding(2) var<storage, read> b: array<E>;
@group(0) @binding(3) var<storage, read_write> y: array<E>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let row = i / (p.na + p.nb);
    let column = i % (p.na + p.nb);
    if column < p.na { y[i] = a[row * p.na + column]; } else { y[i] = b[row * p.nb + column - p.na]; }
}
