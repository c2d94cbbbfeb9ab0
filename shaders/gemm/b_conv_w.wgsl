// B of the gemm that makes a convolution's weight gradient: row (n, oy, ox), column (ky, kx, c) is the input x (N, H, W, C) under that tap,
// as A is in gemm/a_conv.wgsl. C is a multiple of four.

struct ColsB { n: u32, c: u32, y: i32, x: i32 }

fn prepare_b(z: u32, n: u32) -> ColsB {
    let tap = n / p.c;
    return ColsB(n, n % p.c, i32(tap / p.kw) - p.top, i32(tap % p.kw) - p.left);
}

fn load_b(r: ColsB, k: u32, k_end: u32) -> mat4x4f {
    // Where row k is, and from there the three after it: few of them start a new line or image.
    let image = quotient(k, p.oh * p.ow);
    let pixel = k - image * p.oh * p.ow;
    let line = quotient(pixel, p.ow);
    let ox = vec4i(i32(pixel - line * p.ow)) + vec4i(0, 1, 2, 3);
    let lines = vec4i((vec4f(ox) + 0.5) / f32(p.ow));
    let oy = lines + i32(line);
    let images = vec4i((vec4f(oy) + 0.5) / f32(p.oh));
    let n = images + i32(image);
    let y = (oy - images * i32(p.oh)) * i32(p.stride) + r.y;
    let x = (ox - lines * i32(p.ow)) * i32(p.stride) + r.x;
    let inside = (y >= vec4i()) & (y < vec4i(i32(p.h))) & (x >= vec4i()) & (x < vec4i(i32(p.w)))
        & (k + vec4u(0u, 1u, 2u, 3u) < vec4u(k_end)) & vec4<bool>(r.n < p.n);
    let at = select(vec4u(), vec4u((n * i32(p.h) + y) * i32(p.w) + x) * p.c + r.c, inside);
    return mat4x4f(
        select(vec4f(), read_b(at.x), inside.x), select(vec4f(), read_b(at.y), inside.y),
        select(vec4f(), read_b(at.z), inside.z), select(vec4f(), read_b(at.w), inside.w));
}
