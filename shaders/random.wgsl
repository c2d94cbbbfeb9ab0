// The streams of data::rng::Key: Philox4x32-10 (Salmon et al. 2011) with the key's first two words as its key and the counter
// [block, 0, step, purpose]. A block gives the four words of elements 4 block to 4 block + 3, which is what a thread writes.
//   uniform: the high 24 bits times 2^-24, in [0, 1)
//   normal:  Box-Muller: elements 2j and 2j + 1 are r cos a and r sin a, r = sqrt(-2 ln u) with the even word's u in (0, 1], a = 2 pi v
// key (4) u32; y: n f32. No backward: nothing flows to a key.

struct Params { n: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> key: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

/// High and low word of a b, from products of half words.
fn wide_product(a: u32, b: u32) -> vec2u {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let mid = ah * bl + ((al * bl) >> 16u); // below 2^32
    let mid2 = al * bh + (mid & 0xffffu);
    return vec2u(ah * bh + (mid >> 16u) + (mid2 >> 16u), a * b);
}

fn philox(block: u32) -> vec4u {
    var c = vec4u(block, 0u, key[2], key[3]);
    var k = vec2u(key[0], key[1]);
    for (var round = 0u; round < 10u; round++) {
        let a = wide_product(c.x, 0xd2511f53u);
        let b = wide_product(c.z, 0xcd9e8d57u);
        c = vec4u(b.x ^ c.y ^ k.x, b.y, a.x ^ c.w ^ k.y, a.y);
        k += vec2u(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

const STEP = 1.0 / 16777216.0; // 2^-24

// WGSL lets log, sin and cos be off by so much that normal numbers would differ in the fourth digit between adapters. These are exact
// to a few units in the last place.

/// ln(n 2^-24) for n from 1 to 2^24: of n = m 2^e with m near 1, e ln 2 + 2 atanh((m - 1) / (m + 1)).
fn log_of(n: vec2u) -> vec2f {
    let bits = bitcast<vec2u>(vec2f(n));
    let m = bitcast<vec2f>((bits & vec2u(0x7fffffu)) | vec2u(0x3f800000u));
    let upper = m > vec2f(1.41421356);
    let e = vec2f(bits >> vec2u(23u)) - (127.0 + 24.0) + select(vec2f(), vec2f(1.0), upper);
    let near = select(m, 0.5 * m, upper);
    let t = (near - 1.0) / (near + 1.0);
    let q = t * t;
    return e * 0.69314718 + 2.0 * t * (1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q / 9.0))));
}

/// Cosine and sine of the turn v 2^-24: of the rest to the nearest quarter turn, by their series, then by quarter turns.
fn turn(v: u32) -> vec2f {
    let quarter = (v + 0x200000u) >> 22u;
    let x = 6.283185307179586 * STEP * f32(i32(v) - i32(quarter << 22u));
    let q = x * x;
    let c = 1.0 - q * (0.5 - q * (1.0 / 24.0 - q * (1.0 / 720.0 - q / 40320.0)));
    let s = x * (1.0 - q * (1.0 / 6.0 - q * (1.0 / 120.0 - q * (1.0 / 5040.0 - q / 362880.0))));
    let swapped = select(vec2f(c, s), vec2f(-s, c), (quarter & 1u) == 1u);
    return select(swapped, -swapped, (quarter & 2u) == 2u);
}

@compute @workgroup_size(64)
fn uniform_numbers(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i < div_up(p.n, 4u) { y[i] = vec4f(philox(i) >> vec4u(8u)) * STEP; }
}

@compute @workgroup_size(64)
fn normal_numbers(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= div_up(p.n, 4u) { return; }
    let bits = philox(i) >> vec4u(8u);
    let r = sqrt(-2.0 * log_of(bits.xz + 1u));
    y[i] = vec4f(r.x * turn(bits.y), r.y * turn(bits.w));
}
