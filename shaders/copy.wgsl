// y[i] = x[i + start - before] over four dimensions, zero where that lies outside x: slice, pad and permute in one.
// y has n elements of sizes (.., n1, n2, n3); x has `size` and `strides` in the order of y's dimensions. An element is a float, or four
// neighbouring ones where the last dimension stays whole (alias E).

struct Params { n: u32, n1: u32, n2: u32, n3: u32, start: vec4u, before: vec4u, size: vec4u, strides: vec4u }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<E>;
@group(0) @binding(2) var<storage, read_write> y: array<E>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    // What lies before x wraps around to a huge index, so one comparison finds both sides.
    let at = vec4u(i / (p.n1 * p.n2 * p.n3), i / (p.n2 * p.n3) % p.n1, i / p.n3 % p.n2, i % p.n3) + p.start - p.before;
    let inside = all(at < p.size);
    y[i] = select(E(), x[select(0u, dot(at, p.strides), inside)], inside);
}
