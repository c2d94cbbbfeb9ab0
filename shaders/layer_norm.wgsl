// Layer normalisation (Ba et al. 2016) and RMS normalisation (Zhang and Sennrich 2019; CENTERED 0: the mean counts as zero).
//   forward:  y = x^ w + b,  x^ = (x - mean) r,  r = 1 / sqrt(var + eps), mean and (biased) variance of each row
//   backward: dx = r (u - mean(u) - x^ mean(u x^)),  u = dy w; reads x, dy and what forward kept of each row: mean and r
// x, y, dy, dx (rows, width), f32 or f16 (a part in stored/); w, b (width), one or both may be missing; stats (rows, 2). The gradients of w and b: group_norm.wgsl.
// One pass of Welford's method finds both moments: the variance of large numbers close together keeps its digits.

struct Params { rows: u32, width: u32, has_weight: u32, has_bias: u32, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<S>;
@group(0) @binding(2) var<storage, read> weight: array<E>;
@group(0) @binding(3) var<storage, read> bias: array<E>;
@group(0) @binding(4) var<storage, read_write> y: array<S>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2f>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let at = row * p.width;
    var count = 0.0;
    var m = E();
    var squares = E();
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        let v = load(x[at + i]);
        let d = v - m;
        count += 1.0;
        if CENTERED == 1u { m += d / count; }
        squares += d * (v - m);
    }
    let n = EACH * f32(p.width);
    let mean = row_sum(count * total(m), thread) / n;
    let off = m - mean;
    let r = inverseSqrt(row_sum(total(squares + count * off * off), thread) / n + p.eps);
    if lane_of(thread) == 0u { stats[row] = vec2f(mean, r); }
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        var v = (load(x[at + i]) - mean) * r;
        if p.has_weight == 1u { v *= weight[i]; }
        if p.has_bias == 1u { v += bias[i]; }
        y[at + i] = store(v);
    }
}

// ---- backward. `_b`: the same tensor as above, at another binding.

@group(0) @binding(2) var<storage, read> dy: array<S>;
@group(0) @binding(3) var<storage, read> weight_b: array<E>;
@group(0) @binding(4) var<storage, read> stats_b: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> dx: array<S>;

@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let at = row * p.width;
    let mean = stats_b[row].x;
    let r = stats_b[row].y;
    var sum = E();
    var dot = E();
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        var u = load(dy[at + i]);
        if p.has_weight == 1u { u *= weight_b[i]; }
        sum += u;
        dot += u * (load(x[at + i]) - mean);
    }
    let n = EACH * f32(p.width);
    let mean_u = select(0.0, row_sum(total(sum), thread) / n, CENTERED == 1u);
    let slope = row_sum(total(dot), thread) / n * r * r;
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        var u = load(dy[at + i]);
        if p.has_weight == 1u { u *= weight_b[i]; }
        dx[at + i] = store(r * (u - mean_u - (load(x[at + i]) - mean) * slope));
    }
}
