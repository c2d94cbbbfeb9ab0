// C of a gemm has any number of columns: the last `count` of a row may be fewer than four. `alias TC = f32`.
fn write_c(i: u32, count: u32, y: vec4f) {
    c[i] = y.x;
    if count > 1u { c[i + 1u] = y.y; }
    if count > 2u { c[i + 2u] = y.z; }
    if count > 3u { c[i + 3u] = y.w; }
}
