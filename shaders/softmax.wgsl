// Softmax over rows, and the cross entropy of its logarithm.
//   softmax:     y = e^(f x - m) / s,  m = max f x,  s = sum e^(f x - m), for a factor f
//   log_softmax: y = x - m - ln s
//   backward:    dx = y (dy - sum y dy), of softmax; reads y and dy
//   nll:         loss = m + ln s - x[label], one per row
//   nll_backward: dx = (softmax(x) - onehot(label)) d; reads x, the labels and d, the loss's gradient
// x, y, dy, dx (rows, width); labels (rows) u32; loss, d (rows). m and s come from one pass, each number of an element keeping its own
// maximum until the end.

struct Params { rows: u32, width: u32, factor: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<E>;
@group(0) @binding(2) var<storage, read_write> y: array<E>;

/// m and s of the row whose elements start at `at`, each times a factor.
fn peak_and_sum(at: u32, thread: u32, factor: f32) -> vec2f {
    var m = E(-3e38);
    var s = E();
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        let v = x[at + i] * factor;
        let up = max(m, v);
        s = s * exp(m - up) + exp(v - up);
        m = up;
    }
    let peak = row_max(largest(m), thread);
    return vec2f(peak, row_sum(total(s * exp(m - peak)), thread));
}

@compute @workgroup_size(THREADS)
fn softmax(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let at = row * p.width;
    let ms = peak_and_sum(at, thread, p.factor);
    for (var i = lane_of(thread); i < p.width; i += LANES) { y[at + i] = exp(x[at + i] * p.factor - ms.x) / ms.y; }
}

@compute @workgroup_size(THREADS)
fn log_softmax(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let at = row * p.width;
    let ms = peak_and_sum(at, thread, 1.0);
    for (var i = lane_of(thread); i < p.width; i += LANES) { y[at + i] = x[at + i] - ms.x - log(ms.y); }
}

// ---- backward. `_b`: the same tensor as above, at another binding.

@group(0) @binding(1) var<storage, read> y_b: array<E>;
@group(0) @binding(2) var<storage, read> dy: array<E>;
@group(0) @binding(3) var<storage, read_write> dx: array<E>;

@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let at = row * p.width;
    var dot = E();
    for (var i = lane_of(thread); i < p.width; i += LANES) { dot += y_b[at + i] * dy[at + i]; }
    let sum = row_sum(total(dot), thread);
    for (var i = lane_of(thread); i < p.width; i += LANES) { dx[at + i] = y_b[at + i] * (dy[at + i] - sum); }
}

// ---- nll

@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> numbers: array<f32>; // x again
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;

@compute @workgroup_size(THREADS)
fn nll(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let ms = peak_and_sum(row * p.width, thread, 1.0);
    if lane_of(thread) == 0u {
        loss[row] = log(ms.y) - (numbers[row * p.width * u32(EACH) + labels[row]] - ms.x);
    }
}

// ---- nll_backward; it reads the labels too

@group(0) @binding(3) var<storage, read> d: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogits: array<E>;

@compute @workgroup_size(THREADS)
fn nll_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(flat_group(group, groups), thread);
    if row >= p.rows { return; }
    let at = row * p.width;
    let ms = peak_and_sum(at, thread, 1.0);
    for (var i = lane_of(thread); i < p.width; i += LANES) {
        let classes = vec4u(i * u32(EACH)) + vec4u(0u, 1u, 2u, 3u);
        let onehot = element(select(vec4f(), vec4f(1.0), classes == vec4u(labels[row])));
        dlogits[at + i] = (exp(x[at + i] - ms.x) / ms.y - onehot) * d[row];
    }
}
