// A of the gemm that makes a convolution's input gradient: row (n, y, x), column (tap, o) is dy (N, OH, OW, O) at the output pixel that
// saw input pixel (y, x) through that tap, zero where there is none. O is a multiple of four.
// With a stride s an input pixel is seen through every s-th tap only: pixels of the same (y mod s, x mod s) share their taps, and each of
// these s * s classes is one entry z of the batch, with as many columns as it has taps.

struct RowsA { start: vec4u, y: vec4i, x: vec4i, taps_x: u32 }

/// The class of entry z: y mod s, x mod s.
fn phase(z: u32) -> vec2u { return vec2u(z / p.stride, z % p.stride); }

/// First tap that pixels of this class are seen through.
fn first_tap(z: u32) -> vec2u { return (phase(z) + vec2u(vec2i(p.top, p.left))) % p.stride; }

fn tap_count(z: u32) -> vec2u {
    let size = vec2u(p.kh, p.kw);
    let first = min(first_tap(z), size);
    return (size - first + p.stride - 1u) / p.stride;
}

fn k_size(z: u32) -> u32 { let count = tap_count(z); return count.x * count.y * p.o; }

/// Rows are (n, y / s, x / s).
fn c_row(z: u32, m: u32) -> u32 {
    let wide = div_up(p.w, p.stride);
    let high = div_up(p.h, p.stride);
    let y = m / wide % high * p.stride + phase(z).x;
    let x = m % wide * p.stride + phase(z).y;
    return select(0xffffffffu, (m / (wide * high) * p.h + y) * p.w + x, m < p.m && y < p.h && x < p.w);
}

fn prepare_a(z: u32, m: u32) -> RowsA {
    let rows = m + ROWS;
    let wide = div_up(p.w, p.stride);
    let high = div_up(p.h, p.stride);
    let first = first_tap(z);
    // Through its first tap a pixel is seen by this output, through later ones by those above and to the left.
    let y = vec4i((rows / wide % high * p.stride + phase(z).x + u32(p.top) - first.x) / p.stride);
    let x = vec4i((rows % wide * p.stride + phase(z).y + u32(p.left) - first.y) / p.stride);
    return RowsA(rows / (wide * high) * (p.oh * p.ow * p.o), select(vec4i(-1), y, rows < vec4u(p.m)), x, max(tap_count(z).y, 1u));
}

fn load_a(r: RowsA, k: u32, k_end: u32) -> mat4x4f {
    let tap = quotient(k, p.o);
    let ky = quotient(tap, r.taps_x);
    let y = r.y - i32(ky);
    let x = r.x - i32(tap - ky * r.taps_x);
    let inside = (y >= vec4i()) & (y < vec4i(i32(p.oh))) & (x >= vec4i()) & (x < vec4i(i32(p.ow))) & vec4<bool>(k < k_end);
    let at = select(vec4u(), r.start + vec4u(y * i32(p.ow) + x) * p.o + k - tap * p.o, inside);
    return block_a(at, inside);
}

// ---- the same for many channels, for kernels without workgroup memory: where the pixels under a tap are is found out once a tap

/// Where rows are under a tap: their column k at `at` + k.
struct RunA { at: vec4u, inside: vec4<bool> }

/// The column at which the next tap begins.
fn run_end(k: u32) -> u32 { return (quotient(k, p.o) + 1u) * p.o; }

fn run_a(r: RowsA, k: u32) -> RunA {
    let tap = quotient(k, p.o);
    let ky = quotient(tap, r.taps_x);
    let y = r.y - i32(ky);
    let x = r.x - i32(tap - ky * r.taps_x);
    let inside = (y >= vec4i()) & (y < vec4i(i32(p.oh))) & (x >= vec4i()) & (x < vec4i(i32(p.ow)));
    return RunA(select(vec4u(), r.start + vec4u(y * i32(p.ow) + x) * p.o, inside) - tap * p.o, inside);
}

fn load_run(r: RowsA, run: RunA, k: u32, k_end: u32) -> mat4x4f { return block_a(run.at + k, run.inside); }
