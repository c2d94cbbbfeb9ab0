// B of a gemm is stored transposed, row-major (N, K): the weight of a linear layer or of a convolution.

struct ColsB { start: u32, n: u32, at: vec4u }

fn prepare_b(z: u32, n: u32) -> ColsB { 
    return ColsB(start_b(z), n, start_b(z) + min(n + vec4u(0u, 1u, 2u, 3u), vec4u(p.n - 1u)) * p.b_row);
}

fn load_b(r: ColsB, k: u32, k_end: u32) -> mat4x4f {
    if WHOLE == 1u { return transpose(mat4x4f(read_b(r.at.x + k), read_b(r.at.y + k), read_b(r.at.z + k), read_b(r.at.w + k))); }
    return transpose(mat4x4f(col_b(r, 0u, k, k_end), col_b(r, 1u, k, k_end), col_b(r, 2u, k, k_end), col_b(r, 3u, k, k_end)));
}

fn col_b(r: ColsB, i: u32, k: u32, k_end: u32) -> vec4f {
    let ok = r.n + i < p.n && k < k_end;
    return below(read_b(select(0u, r.start + (r.n + i) * p.b_row + k, ok)), select(0u, k_end - k, ok));
}
