// y[row] = the smallest i with x[row, i] = max over the row. x (rows, width) f32, y (rows) u32. No backward: an index has none.

struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

const LOWEST = -3.402823466e38;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    var best = LOWEST;
    var index = p.width;
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        let v = x[row * p.width + i];
        if v > best || index == p.width {
            best = v;
            index = i;
        }
    }
    // Indices as negative floats, exact up to 2^24: the first is the largest.
    let largest = row_max(best, thread);
    let first = row_max(select(LOWEST, -f32(index), best == largest), thread);
    if lane_of(thread) == 0u { y[row] = min(u32(-first), p.width - 1u); }
}
