// Rotary position embedding (Su et al. 2021), with the halves of a head as pairs, as Llama has it: for column c below D / 2
//   y[c] = x[c] cos - x[c + D/2] sin,  y[c + D/2] = x[c + D/2] cos + x[c] sin,  cos and sin of (token, c).
//
// x, y (B, T, H, D); cos, sin (T, D / 2). The backward turns dy the other way: sign is -1. It reads cos and sin only.
// T is vec4f where D / 2 is a multiple of four, and `half` and `n` count vectors; else f32.

struct Params { n: u32, tokens: u32, heads: u32, half: u32, sign: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read> cosines: array<T>;
@group(0) @binding(3) var<storage, read> sines: array<T>;
@group(0) @binding(4) var<storage, read_write> y: array<T>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let row = i / p.half;
    let angle = row / p.heads % p.tokens * p.half + i % p.half;
    let at = row * p.half + i;
    let c = cosines[angle];
    let s = sines[angle] * p.sign;
    y[at] = x[at] * c - x[at + p.half] * s;
    y[at + p.half] = x[at + p.half] * c + x[at] * s;
}
