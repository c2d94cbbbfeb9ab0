// Fragments of 8 x 8, f16 -> f32: Apple, lavapipe. Tiles lie in single halves, since Metal's writer takes no pointer to a vector.
const SIZE = 8u;
var<workgroup> a_tile: array<f16, TILE_M * ROW_A>; // [row][k]
var<workgroup> b_tile: array<f16, TILE_K * ROW_B>; // [k][column]

fn put_a(at: u32, v: vec4f) {
    let h = half4(v);
    a_tile[at] = h.x;
    a_tile[at + 1u] = h.y;
    a_tile[at + 2u] = h.z;
    a_tile[at + 3u] = h.w;
}

fn put_b(at: u32, v: vec4f) {
    let h = half4(v);
    b_tile[at] = h.x;
    b_tile[at + 1u] = h.y;
    b_tile[at + 2u] = h.z;
    b_tile[at + 3u] = h.w;
}

fn zeros() -> coop_mat8x8<f32, C> { return coop_mat8x8<f32, C>(); }
fn fragment_a(at: u32) -> coop_mat8x8<f16, A> { return coopLoadT<coop_mat8x8<f16, A>>(&a_tile[at], ROW_A); }
fn fragment_b(at: u32) -> coop_mat8x8<f16, B> { return coopLoadT<coop_mat8x8<f16, B>>(&b_tile[at], ROW_B); }
