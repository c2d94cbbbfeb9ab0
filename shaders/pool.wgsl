// Pooling over windows of `kernel` x `kernel` pixels, `stride` apart, in an image with `padding` pixels around it.
//   max:          y = largest x of the window (padding never wins)
//   index:        where that is: row w + column; the first of equals
//   max_backward: dx = sum of dy of the windows whose index is this pixel; reads index and dy
//   max_gather:   the backward of that: ddy = v at the window's index
//   avg:          y = sum of the window / kernel^2 (padding counts as zeros); avg_backward: dx = sum of dy / kernel^2
// x, dx, v (n, h, w, c); y, dy, index (n, oh, ow, c); numbers f32 or f16 (a part in
// stored/). Backwards gather, so that no two threads add to one number.

struct Params { n: u32, h: u32, w: u32, c: u32, oh: u32, ow: u32, kernel: u32, stride: u32, padding: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<S>;
@group(0) @binding(2) var<storage, read_write> y: array<S>;

struct Pixel { n: u32, y: u32, x: u32, c: u32, exists: bool }

fn pixel(i: u32, h: u32, w: u32) -> Pixel {
    return Pixel(i / p.c / w / h, i / p.c / w % h, i / p.c % w, i % p.c, i < p.n * h * w * p.c);
}

/// Rows and columns from .x to before .y.
struct Box { rows: vec2u, columns: vec2u }

/// The input pixels of window o that are inside the image.
fn inputs_of(o: Pixel) -> Box { return Box(inputs(o.y, p.h), inputs(o.x, p.w)); }

fn inputs(i: u32, size: u32) -> vec2u {
    let end = min(i * p.stride + p.kernel, size + p.padding) - p.padding;
    return vec2u(max(i * p.stride, p.padding) - p.padding, end);
}

/// The windows that have input pixel q.
fn windows_of(q: Pixel) -> Box { return Box(windows(q.y, p.oh), windows(q.x, p.ow)); }

fn windows(i: u32, size: u32) -> vec2u {
    let at = i + p.padding;
    return vec2u(div_up(max(at + 1u, p.kernel) - p.kernel, p.stride), min(at / p.stride + 1u, size));
}

/// Element of an input at row r, column k in the image and channel of o.
fn input_at(o: Pixel, r: u32, k: u32) -> u32 { return ((o.n * p.h + r) * p.w + k) * p.c + o.c; }

/// Element of an output at window (r, k) in the image and channel of q.
fn output_at(q: Pixel, r: u32, k: u32) -> u32 { return ((q.n * p.oh + r) * p.ow + k) * p.c + q.c; }

/// The largest x of a window, and where it is.
struct Peak { best: E, found: I }

fn peak_of(o: Pixel) -> Peak {
    let b = inputs_of(o);
    var best = E(-3.402823466e38);
    var found = I(b.rows.x * p.w + b.columns.x);
    for (var r = b.rows.x; r < b.rows.y; r++) {
        for (var k = b.columns.x; k < b.columns.y; k++) {
            let v = load(x[input_at(o, r, k)]);
            found = select(found, I(r * p.w + k), v > best);
            best = max(best, v);
        }
    }
    return Peak(best, found);
}

@compute @workgroup_size(64)
fn max_forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let o = pixel(i, p.oh, p.ow);
    if o.exists { y[i] = store(peak_of(o).best); }
}

// ---- index

@group(0) @binding(2) var<storage, read_write> index_out: array<I>;

@compute @workgroup_size(64)
fn index(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let o = pixel(i, p.oh, p.ow);
    if o.exists { index_out[i] = peak_of(o).found; }
}

// ---- max_backward and max_gather (there `dy` is v, and `dx` is ddy)

@group(0) @binding(1) var<storage, read> dy: array<S>;
@group(0) @binding(2) var<storage, read> where_max: array<I>;
@group(0) @binding(3) var<storage, read_write> dx: array<S>;

@compute @workgroup_size(64)
fn max_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let q = pixel(i, p.h, p.w);
    if !q.exists { return; }
    let b = windows_of(q);
    var sum = E();
    for (var r = b.rows.x; r < b.rows.y; r++) {
        for (var k = b.columns.x; k < b.columns.y; k++) {
            let at = output_at(q, r, k);
            sum += select(E(), load(dy[at]), where_max[at] == I(q.y * p.w + q.x));
        }
    }
    dx[i] = store(sum);
}

@compute @workgroup_size(64)
fn max_gather(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let o = pixel(i, p.oh, p.ow);
    if !o.exists { return; }
    let b = inputs_of(o);
    var sum = E();
    for (var r = b.rows.x; r < b.rows.y; r++) {
        for (var k = b.columns.x; k < b.columns.y; k++) {
            sum += select(E(), load(dy[input_at(o, r, k)]), where_max[i] == I(r * p.w + k));
        }
    }
    dx[i] = store(sum);
}

// ---- avg_forward and avg_backward (there `x` is dy, and `y` is dx)

@compute @workgroup_size(64)
fn avg_forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let o = pixel(i, p.oh, p.ow);
    if !o.exists { return; }
    let b = inputs_of(o);
    var sum = E();
    for (var r = b.rows.x; r < b.rows.y; r++) {
        for (var k = b.columns.x; k < b.columns.y; k++) { sum += load(x[input_at(o, r, k)]); }
    }
    y[i] = store(sum / f32(p.kernel * p.kernel));
}

@compute @workgroup_size(64)
fn avg_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    let q = pixel(i, p.h, p.w);
    if !q.exists { return; }
    let b = windows_of(q);
    var sum = E();
    for (var r = b.rows.x; r < b.rows.y; r++) {
        for (var k = b.columns.x; k < b.columns.y; k++) { sum += load(x[output_at(q, r, k)]); }
    }
    y[i] = store(sum / f32(p.kernel * p.kernel));
}
