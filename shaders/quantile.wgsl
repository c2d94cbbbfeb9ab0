// y[row] = a + t (b - a), where a is the k-th smallest of the row, counted from 0, and b the next: torch's quantile (linear).
// x (rows, width) f32, y (rows) f32. No backward. The k-th smallest is found bit by bit: floats are compared as whole numbers of the
// same order, and a number has the next bit set if no more than k are below it.

struct Params { rows: u32, width: u32, k: u32, t: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const LOWEST = -3.402823466e38;

fn ordered(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn number(order: u32) -> f32 {
    return bitcast<f32>(select(~order, order & 0x7fffffffu, order >= 0x80000000u));
}

/// How many of the row are below `bound`.
fn count_below(row: u32, bound: u32, thread: u32) -> u32 {
    var count = 0.0;
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        count += select(0.0, 1.0, ordered(x[row * p.width + i]) < bound);
    }
    return u32(row_sum(count, thread));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    // Rows past the end are the last once more, so that all threads meet at the barriers of row_sum.
    let row = min(row_of(flat_group(group, groups), thread), p.rows - 1u);
    var found = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if count_below(row, found | bit, thread) <= p.k { found |= bit; }
    }
    var above = LOWEST;
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        let v = x[row * p.width + i];
        if ordered(v) > found { above = max(above, -v); }
    }
    let next = -row_max(above, thread);
    let a = number(found);
    let b = select(a, next, count_below(row, found + 1u, thread) == p.k + 1u && p.k + 1u < p.width);
    if lane_of(thread) == 0u { y[row] = select(a + p.t * (b - a), b - (1.0 - p.t) * (b - a), p.t >= 0.5); }
}
