// B of the gemm that makes a convolution's weight gradient: row (n, oy, ox), column (ky, kx, c) is the input x (N, H, W, C) under that tap,
// as A is in gemm/a_conv.wgsl. C is a multiple of four.

struct ColsB { n: u32, y: i32, x: i32 }

fn prepare_b(z: u32, n: u32) -> ColsB {
    let tap = n / p.c;
    return ColsB(n, i32(tap / p.kw) - p.top, i32(tap % p.kw) - p.left);
}

fn load_b(r: ColsB, k: u32, k_end: u32) -> mat4x4f {
    let rows = k + vec4u(0u, 1u, 2u, 3u);
    let y = vec4i(rows / p.ow % p.oh * p.stride) + r.y;
    let x = vec4i(rows % p.ow * p.stride) + r.x;
    let inside = (y >= vec4i()) & (y < vec4i(i32(p.h))) & (x >= vec4i()) & (x < vec4i(i32(p.w)))
        & (rows < vec4u(k_end)) & vec4<bool>(r.n < p.n);
    let n = rows / (p.oh * p.ow);
    let at = select(vec4u(), ((n * p.h + vec4u(y)) * p.w + vec4u(x)) * p.c + r.n % p.c, inside);
    return mat4x4f(
        select(vec4f(), read_b(at.x), inside.x), select(vec4f(), read_b(at.y), inside.y),
        select(vec4f(), read_b(at.z), inside.z), select(vec4f(), read_b(at.w), inside.w));
}
