// y[r, k] = x[source(r), source(k)], source(i) = min(floor(i scale), size - 1), scale = size / output size in f32, as torch's
// interpolate(mode="nearest"). backward: dx = sum of dy over the outputs whose source is this pixel; reads dy only.
// x, dx (n, h, w, c); y, dy (n, oh, ow, c).

struct Params { n: u32, h: u32, w: u32, c: u32, oh: u32, ow: u32, scale_y: f32, scale_x: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<E>;
@group(0) @binding(2) var<storage, read_write> y: array<E>;

fn source(i: u32, scale: f32, size: u32) -> u32 { return min(u32(f32(i) * scale), size - 1u); }

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n * p.oh * p.ow * p.c { return; }
    let column = source(i / p.c % p.ow, p.scale_x, p.w);
    let row = source(i / p.c / p.ow % p.oh, p.scale_y, p.h);
    let n = i / p.c / p.ow / p.oh;
    y[i] = x[((n * p.h + row) * p.w + column) * p.c + i % p.c];
}

/// The first output whose source is at least i; `outputs` where there is none.
fn first(i: u32, scale: f32, size: u32, outputs: u32) -> u32 {
    var at = max(u32(f32(i) / scale), 1u) - 1u; // a rounding too low at most
    while at < outputs && source(at, scale, size) < i { at++; }
    return at;
}

@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n * p.h * p.w * p.c { return; }
    let column = i / p.c % p.w;
    let row = i / p.c / p.w % p.h;
    let n = i / p.c / p.w / p.h;
    let bottom = first(row + 1u, p.scale_y, p.h, p.oh);
    let right = first(column + 1u, p.scale_x, p.w, p.ow);
    var sum = E();
    for (var r = first(row, p.scale_y, p.h, p.oh); r < bottom; r++) {
        for (var k = first(column, p.scale_x, p.w, p.ow); k < right; k++) {
            sum += x[((n * p.oh + r) * p.ow + k) * p.c + i % p.c];
        }
    }
    y[i] = sum;
}
