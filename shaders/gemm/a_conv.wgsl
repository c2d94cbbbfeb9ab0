// A of a gemm is what a convolution sees: row (n, oy, ox), column (ky, kx, c) is the input x (N, H, W, C) at (n, oy stride + ky - top,
// ox stride + kx - left, c), zero outside. C is a multiple of four. Nothing of it is stored. With DOUBLED = 1, x is an image of half the
// size, of which each pixel stands for four: nearest upsampling, which is not stored either.

struct RowsA { start: vec4u, y: vec4i, x: vec4i }

fn k_size(z: u32) -> u32 { return p.k; }

fn c_row(z: u32, m: u32) -> u32 { return plain_row(z, m); } // z: a piece of K

fn prepare_a(z: u32, m: u32) -> RowsA {
    let rows = m + ROWS;
    let y = vec4i(rows / p.ow % p.oh * p.stride) - p.top;
    let x = vec4i(rows % p.ow * p.stride) - p.left;
    return RowsA(rows / (p.oh * p.ow) * ((p.h >> DOUBLED) * (p.w >> DOUBLED) * p.c), select(vec4i(-0x100000), y, rows < vec4u(p.m)), x);
}

fn load_a(r: RowsA, k: u32, k_end: u32) -> mat4x4f {
    let tap = quotient(k, p.c);
    let ky = quotient(tap, p.kw);
    let y = r.y + i32(ky);
    let x = r.x + i32(tap - ky * p.kw);
    let inside = (y >= vec4i()) & (y < vec4i(i32(p.h))) & (x >= vec4i()) & (x < vec4i(i32(p.w))) & vec4<bool>(k < k_end);
    let at = select(vec4u(), r.start + vec4u((y >> vec4u(DOUBLED)) * i32(p.w >> DOUBLED) + (x >> vec4u(DOUBLED))) * p.c + k - tap * p.c, inside);
    return block_a(at, inside);
}

// ---- the same for many channels, for kernels without workgroup memory: where the pixels under a tap are is found out once a tap

/// Where rows are under a tap: their column k at `at` + k.
struct RunA { at: vec4u, inside: vec4<bool> }

/// The column at which the next tap begins.
fn run_end(k: u32) -> u32 { return (quotient(k, p.c) + 1u) * p.c; }

fn run_a(r: RowsA, k: u32) -> RunA {
    let tap = quotient(k, p.c);
    let ky = quotient(tap, p.kw);
    let y = r.y + i32(ky);
    let x = r.x + i32(tap - ky * p.kw);
    let inside = (y >= vec4i()) & (y < vec4i(i32(p.h))) & (x >= vec4i()) & (x < vec4i(i32(p.w)));
    return RunA(select(vec4u(), r.start + vec4u((y >> vec4u(DOUBLED)) * i32(p.w >> DOUBLED) + (x >> vec4u(DOUBLED))) * p.c, inside) - tap * p.c, inside);
}

fn load_run(r: RowsA, run: RunA, k: u32, k_end: u32) -> mat4x4f { return block_a(run.at + k, run.inside); }
