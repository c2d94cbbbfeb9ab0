// y[r] = sum of src[i] over all i with ids[i] = r, in order of i: the same bits every time, and no atomics.
// src (n, c), ids (n) u32, y (rows, c). The backward is gather.wgsl; it reads ids only.
// links (n + rows), a linked list per id: next[i], then head[r], the first i with ids[i] = r. n ends a list.
// links makes them and rows follows them, which costs (n + rows) n / 2 comparisons at most, but no row of src is read twice.

struct Params { n: u32, rows: u32, c: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> links_out: array<u32>;

@compute @workgroup_size(64)
fn links(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n + p.rows { return; }
    var id = i - p.n;
    var at = 0u;
    if i < p.n {
        id = ids[i];
        at = i + 1u;
    }
    while at < p.n && ids[at] != id { at++; }
    links_out[i] = at;
}

// ---- rows

@group(0) @binding(1) var<storage, read> src: array<E>;
@group(0) @binding(2) var<storage, read> links_in: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<E>;

@compute @workgroup_size(64)
fn rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.rows * p.c { return; }
    var sum = E();
    for (var at = links_in[p.n + i / p.c]; at < p.n; at = links_in[at]) { sum += src[at * p.c + i % p.c]; }
    y[i] = sum;
}
