// Fragments of 16 x 16, f16 -> f32: NVIDIA, AMD from RDNA3 on. The tile lies in vectors of four halves.
// A kernel says how many halves its `tile` has. fragment_a and fragment_b: rows of A and B, `row` halves apart; fragment_b_t: B's columns are.
const SIZE = 16u;
var<workgroup> tile: array<vec4<f16>, TILE_SIZE / 4u>;

fn put(at: u32, v: vec4f) { tile[at / 4u] = vec4<f16>(within_half(v)); }
fn zeros() -> coop_mat16x16<f32, C> { return coop_mat16x16<f32, C>(); }
fn fragment_a(at: u32, row: u32) -> coop_mat16x16<f16, A> { return coopLoadT<coop_mat16x16<f16, A>>(&tile[at / 4u], row / 4u); }
fn fragment_b(at: u32, row: u32) -> coop_mat16x16<f16, B> { return coopLoadT<coop_mat16x16<f16, B>>(&tile[at / 4u], row / 4u); }
fn fragment_b_t(at: u32, row: u32) -> coop_mat16x16<f16, B> { return coopLoad<coop_mat16x16<f16, B>>(&tile[at / 4u], row / 4u); }
