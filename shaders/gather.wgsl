// y[i] = table[ids[i]], row by row. table (v, c) f32 or packed f16, read by a part in gather/; ids u32, below v; y (ids, c) f32.
// The backward is scatter.wgsl; it reads ids only. n elements E of y, c elements in a row.

struct Params { n: u32, c: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<T>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<E>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < p.n { y[i] = read_table(ids[i / p.c] * p.c + i % p.c); }
}
