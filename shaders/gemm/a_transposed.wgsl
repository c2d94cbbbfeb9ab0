// A of a gemm is stored transposed, row-major (K, M). The rows of a block are neighbours.

struct RowsA { start: u32, m: u32 }

fn k_size(z: u32) -> u32 { return p.k; }

fn c_row(z: u32, m: u32) -> u32 { return plain_row(z, m); }

fn prepare_a(z: u32, m: u32) -> RowsA { return RowsA(start_a(z), m); }

fn load_a(r: RowsA, k: u32, k_end: u32) -> mat4x4f {
    return transpose(mat4x4f(col_a(r, k, k_end), col_a(r, k + 1u, k_end), col_a(r, k + 2u, k_end), col_a(r, k + 3u, k_end)));
}

fn col_a(r: RowsA, k: u32, k_end: u32) -> vec4f {
    let ok = r.m < p.m && k < k_end;
    return below(read_a(select(0u, r.start + k * p.a_row + r.m, ok)), select(0u, p.m - r.m, ok));
}
