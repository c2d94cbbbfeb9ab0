// B of the gemm that makes a convolution's input gradient: row (tap, o), column c is the weight (O, KH, KW, C) at (o, ky, kx, c). Which
// taps there are depends on the entry z: gemm/a_conv_t.wgsl. C and O are multiples of four.

struct ColsB { n: u32, first: vec2u, taps_x: u32 }

fn prepare_b(z: u32, n: u32) -> ColsB { return ColsB(n, first_tap(z), max(tap_count(z).y, 1u)); }

fn load_b(r: ColsB, k: u32, k_end: u32) -> mat4x4f {
    let tap = quotient(k, p.o);
    let tap_y = quotient(tap, r.taps_x);
    let ky = r.first.x + tap_y * p.stride;
    let kx = r.first.y + (tap - tap_y * r.taps_x) * p.stride;
    let step = p.kh * p.kw * p.c;
    if WHOLE == 1u {
        let at = (k - tap * p.o) * step + (ky * p.kw + kx) * p.c + min(r.n, p.n - 4u);
        return mat4x4f(read_b(at), read_b(at + step), read_b(at + 2u * step), read_b(at + 3u * step));
    }
    let ok = r.n < p.n && k < k_end;
    let at = select(0u, (k - tap * p.o) * step + (ky * p.kw + kx) * p.c + r.n, ok);
    let next = select(0u, step, ok);
    return mat4x4f(row_b(at, ok), row_b(at + next, ok), row_b(at + 2u * next, ok), row_b(at + 3u * next, ok));
}

fn row_b(at: u32, ok: bool) -> vec4f { return select(vec4f(), read_b(at), ok); }
