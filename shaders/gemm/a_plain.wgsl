// A of a gemm is stored row-major (M, K).

struct RowsA { start: u32, m: u32, at: vec4u }

fn k_size(z: u32) -> u32 { return p.k; }

fn c_row(z: u32, m: u32) -> u32 { return plain_row(z, m); }

fn prepare_a(z: u32, m: u32) -> RowsA { 
    return RowsA(start_a(z), m, start_a(z) + min(m + ROWS, vec4u(p.m - 1u)) * p.a_row);
}

fn load_a(r: RowsA, k: u32, k_end: u32) -> mat4x4f {
    if WHOLE == 1u { return mat4x4f(read_a(r.at.x + k), read_a(r.at.y + k), read_a(r.at.z + k), read_a(r.at.w + k)); }
    return mat4x4f(row_a(r, 0u, k, k_end), row_a(r, ROWS.y, k, k_end), row_a(r, ROWS.z, k, k_end), row_a(r, ROWS.w, k, k_end));
}

fn row_a(r: RowsA, i: u32, k: u32, k_end: u32) -> vec4f {
    let ok = r.m + i < p.m && k < k_end;
    return below(read_a(select(0u, r.start + (r.m + i) * p.a_row + k, ok)), select(0u, k_end - k, ok));
}
