// dy, which both backward kernels of attention read.

@group(0) @binding(4) var<storage, read> dy: array<vec4f>;

fn dy_block(m: Rows, row: u32, c: u32) -> mat4x4f {
    if !exists(c) { return mat4x4f(); }
    return mat4x4f(dy[place(m, row, c)], dy[place(m, row + 1u, c)], dy[place(m, row + 2u, c)], dy[place(m, row + 3u, c)]);
}
