// B of a gemm is stored row-major (K, N).

struct ColsB { start: u32, n: u32, at: u32, row: u32 }

fn prepare_b(z: u32, n: u32) -> ColsB { 
    return ColsB(start_b(z), n, start_b(z) + min(n, (p.n - 1u) / 4u * 4u), p.b_row);
}

fn load_b(r: ColsB, k: u32, k_end: u32) -> mat4x4f {
    if WHOLE == 1u {
        let at = r.at + k * r.row;
        return mat4x4f(read_b(at), read_b(at + r.row), read_b(at + 2u * r.row), read_b(at + 3u * r.row));
    }
    return mat4x4f(row_b(r, k, k_end), row_b(r, k + 1u, k_end), row_b(r, k + 2u, k_end), row_b(r, k + 3u, k_end));
}

fn row_b(r: ColsB, k: u32, k_end: u32) -> vec4f {
    let ok = r.n < p.n && k < k_end;
    return below(read_b(select(0u, r.start + k * p.b_row + r.n, ok)), select(0u, p.n - r.n, ok));
}
