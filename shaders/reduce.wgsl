// y = the combination (sum or max, a part in reduce/) over the middle of x (outer, r, inner), f32 or f16, in pieces of at most
// `piece`: y (outer, ceil(r / piece), inner). How x is read is a part: reduce/f32, reduce/f16.
// rows: inner is 1; one workgroup per piece, neighbours read neighbours. cols: one thread per element of y, walking down its column.

struct Params { outer: u32, r: u32, inner: u32, piece: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

var<workgroup> parts: array<f32, 64>;

@compute @workgroup_size(64)
fn rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let pieces = div_up(p.r, p.piece);
    let at = flat_group(group, groups);
    if at >= p.outer * pieces { return; }
    let start = at % pieces * p.piece;
    let end = min(start + p.piece, p.r);
    var sum = START;
    for (var i = start + thread; i < end; i += 64u) { sum = combine(sum, read_x(at / pieces * p.r + i)); }
    parts[thread] = sum;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if thread < half { parts[thread] = combine(parts[thread], parts[thread + half]); }
        workgroupBarrier();
    }
    if thread == 0u { y[at] = parts[0]; }
}

@compute @workgroup_size(64)
fn cols(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let pieces = div_up(p.r, p.piece);
    let at = flat_group(group, groups) * 64u + thread;
    if at >= p.outer * pieces * p.inner { return; }
    let column = at % p.inner;
    let piece = at / p.inner % pieces;
    let outer = at / p.inner / pieces;
    var sum = START;
    for (var i = piece * p.piece; i < min((piece + 1u) * p.piece, p.r); i++) {
        sum = combine(sum, read_x((outer * p.r + i) * p.inner + column));
    }
    y[at] = sum;
}
