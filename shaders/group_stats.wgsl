// From the sums over columns (group_norm) to groups of channels. A row is one group of one sample; it has `width` channels.
//   combine:          means and sums of squares (n, pieces, c) -> mean and biased variance of the group (Chan et al. 1979)
//   combine_backward: sums of dz and dz x^ (n, pieces, c) and the weight (c) -> means of dz w and dz w x^ over the group
// Both results are (n, 2, c): each channel has what belongs to its group. l: rows of a column; `piece` of them in each piece.

struct Params { rows: u32, groups: u32, width: u32, l: u32, piece: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> first: array<f32>;
@group(0) @binding(2) var<storage, read> second: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;

/// Channel `i` of the group `row`, in tensors (n, rows, c).
fn at(row: u32, rows: u32, i: u32) -> u32 {
    return (row / p.groups * rows * p.groups + row % p.groups) * p.width + i;
}

@compute @workgroup_size(THREADS)
fn combine(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let c = p.groups * p.width;
    let pieces = div_up(p.l, p.piece);
    let start = at(row, pieces, 0u);
    var sum = 0.0;
    for (var i = lane_of(thread); i < pieces * p.width; i += LANES) {
        let piece = i / p.width;
        sum += f32(min(p.piece, p.l - piece * p.piece)) * first[start + piece * c + i % p.width];
    }
    let n = f32(p.l) * f32(p.width);
    let mean = row_sum(sum, thread) / n;
    var squares = 0.0;
    for (var i = lane_of(thread); i < pieces * p.width; i += LANES) {
        let piece = i / p.width;
        let d = first[start + piece * c + i % p.width] - mean;
        squares += second[start + piece * c + i % p.width] + f32(min(p.piece, p.l - piece * p.piece)) * d * d;
    }
    let variance = row_sum(squares, thread) / n;
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        stats[at(row, 2u, i)] = mean;
        stats[at(row, 2u, i) + c] = variance;
    }
}

// ---- combine_backward

@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> means: array<f32>;

@compute @workgroup_size(THREADS)
fn combine_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let c = p.groups * p.width;
    let pieces = div_up(p.l, p.piece);
    let start = at(row, pieces, 0u);
    var sums = vec2f();
    for (var i = lane_of(thread); i < pieces * p.width; i += LANES) {
        let source = start + i / p.width * c + i % p.width;
        sums += weight[row % p.groups * p.width + i % p.width] * vec2f(first[source], second[source]);
    }
    let n = f32(p.l) * f32(p.width);
    let m1 = row_sum(sums.x, thread) / n;
    let m2 = row_sum(sums.y, thread) / n;
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        means[at(row, 2u, i)] = m1;
        means[at(row, 2u, i) + c] = m2;
    }
}
