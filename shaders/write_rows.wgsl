// state[b, at + t, :] = rows[b, t, :] for t below `count`, in place; rows that would lie past the end are dropped.
// state (B, length, width), rows (B, count, width), at: one number. An element is a float or four neighbouring ones (alias E).
// n = B * count * width elements. No backward.

struct Params { n: u32, count: u32, length: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rows: array<E>;
@group(0) @binding(2) var<storage, read> at: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<E>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let row = i / p.width;
    let to = at[0] + row % p.count;
    if i >= p.n || to >= p.length { return; }
    state[(row / p.count * p.length + to) * p.width + i % p.width] = rows[i];
}
