// What every kernel of matrix products has: its numbers and tensors, and how a block of C is started and written.
//
//   A (M, K), B (K, N), C (M, N), bias (N), residual like C. Everything is f32 or read as f32; sums are f32.
//
// What A and B are is up to other parts: `load_a` gives a 4x4 block of A, a stored matrix, its transpose, or the pixels under the taps
// of a convolution (a_*.wgsl); `load_b` likewise (b_*.wgsl). How elements are read is another part: vec4, scalar, packed f16 (read_*.wgsl).
//
// Blocks of A and C have four rows: neighbours, or ROW_STEP apart. WHOLE = 1: loaders are asked for blocks that lie inside of K, though not of M
// and N; what they give there may be anything.
//
// K may be cut into `splits` pieces (for long, narrow products such as weight gradients): piece s of entry z is written as entry
// z * splits + s, and a sum over the pieces follows.

struct Params {
    m: u32, n: u32, k: u32,          // rows and columns of C, inner size
    splits: u32,
    heads: u32,                      // entries that are heads of one: their rows lie side by side in C
    bias: u32, bias_first: u32,      // 1 where given; where it begins
    // Of matrices that are stored: where the first begins, from a row to the next, from an entry (of all heads) to the next (0 where all
    // share one), from a head to the next.
    a_first: u32, a_row: u32, a_step: u32, a_head: u32,
    b_first: u32, b_row: u32, b_step: u32, b_head: u32,
    // Of a convolution: input (h, w, c), output (oh, ow, o), kernel (kh, kw), stride, padding above and to the left.
    h: u32, w: u32, c: u32, oh: u32, ow: u32, o: u32, kh: u32, kw: u32, stride: u32, top: i32, left: i32,
    first: u32,                      // tile, where they are made in pieces
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<TA>;
@group(0) @binding(2) var<storage, read> b: array<TB>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<TC>;

/// The bias of four columns. No branch: lavapipe compiles a kernel again at every dispatch where a branch depends on nothing but parameters.
fn bias_of(n: u32) -> vec4f {
    let at = p.bias_first + n * p.bias;
    return select(vec4f(), vec4f(bias[at], bias[at + 1u], bias[at + 2u], bias[at + 3u]), p.bias == 1u);
}

/// What the accumulators of four columns start with.
fn start(n: u32) -> mat4x4f {
    let v = bias_of(n);
    return mat4x4f(v, v, v, v);
}

/// Where entry z of a stored A begins.
fn start_a(z: u32) -> u32 { return p.a_first + z / p.heads * p.a_step + z % p.heads * p.a_head; }

/// Where entry z of a stored B begins.
fn start_b(z: u32) -> u32 { return p.b_first + z / p.heads * p.b_step + z % p.heads * p.b_head; }

/// The row of C that row m of entry z is; none behind the end.
fn plain_row(z: u32, m: u32) -> u32 { return select(0xffffffffu, (z / p.heads * p.m + m) * p.heads + z % p.heads, m < p.m); }

/// The four rows of a block.
const ROWS = vec4u(0u, ROW_STEP, 2u * ROW_STEP, 3u * ROW_STEP);

/// A block of A whose rows begin at `at`, zeros where they are not inside.
fn block_a(at: vec4u, inside: vec4<bool>) -> mat4x4f {
    return mat4x4f(
        select(vec4f(), read_a(at.x), inside.x), select(vec4f(), read_a(at.y), inside.y),
        select(vec4f(), read_a(at.z), inside.z), select(vec4f(), read_a(at.w), inside.w));
}

/// Four rows, ROW_STEP apart, from m of entry z, four columns from n.
fn finish_block(z: u32, m: u32, n: u32, sums: mat4x4f) {
    if n >= p.n { return; }
    finish(c_row(z, m), n, sums[0]);
    finish(c_row(z, m + ROWS.y), n, sums[1]);
    finish(c_row(z, m + ROWS.z), n, sums[2]);
    finish(c_row(z, m + ROWS.w), n, sums[3]);
}

fn finish(row: u32, n: u32, sum: vec4f) {
    if row != 0xffffffffu { write_c(row * p.n + n, min(p.n - n, 4u), act(sum) + residual_at(row * p.n + n)); }
}
