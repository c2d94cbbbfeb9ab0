// Fragments of 16 x 16, f16 -> f32: NVIDIA, AMD from RDNA3 on. Tiles lie in vectors of four halves.
const SIZE = 16u;
var<workgroup> a_tile: array<vec4<f16>, TILE_M * ROW_A / 4u>; // [row][k]
var<workgroup> b_tile: array<vec4<f16>, TILE_K * ROW_B / 4u>; // [k][column]

fn put_a(at: u32, v: vec4f) { a_tile[at / 4u] = half4(v); }
fn put_b(at: u32, v: vec4f) { b_tile[at / 4u] = half4(v); }
fn zeros() -> coop_mat16x16<f32, C> { return coop_mat16x16<f32, C>(); }
fn fragment_a(at: u32) -> coop_mat16x16<f16, A> { return coopLoadT<coop_mat16x16<f16, A>>(&a_tile[at / 4u], ROW_A / 4u); }
fn fragment_b(at: u32) -> coop_mat16x16<f16, B> { return coopLoadT<coop_mat16x16<f16, B>>(&b_tile[at / 4u], ROW_B / 4u); }
