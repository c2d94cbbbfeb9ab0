// A of a gemm is two matrices side by side, each stored row-major: (M, a_row) and (M, K - a_row), which are not joined in memory. Both
// widths are multiples of four. The second has the place of the residual.

@group(0) @binding(4) var<storage, read> right: array<TA>;

struct RowsA { m: u32 }

fn k_size(z: u32) -> u32 { return p.k; }

fn c_row(z: u32, m: u32) -> u32 { return plain_row(z, m); } // z: a piece of K

fn prepare_a(z: u32, m: u32) -> RowsA { return RowsA(m); }

fn load_a(r: RowsA, k: u32, k_end: u32) -> mat4x4f {
    return mat4x4f(
        row_a(r.m, k, k_end), row_a(r.m + ROWS.y, k, k_end), row_a(r.m + ROWS.z, k, k_end), row_a(r.m + ROWS.w, k, k_end));
}

fn row_a(m: u32, k: u32, k_end: u32) -> vec4f {
    if m >= p.m || k >= k_end { return vec4f(); }
    if k < p.a_row { return read_a(m * p.a_row + k); }
    return from_a(right[(m * (p.k - p.a_row) + k - p.a_row) / 4u]);
}
