// Fragments of 8 x 8, f16 -> f32: Apple, lavapipe. The tile lies in single halves, since Metal's writer takes no pointer to a vector.
// A kernel says how many halves its `tile` has. fragment_a and fragment_b: rows of A and B, `row` halves apart; fragment_b_t: B's columns are.
const SIZE = 8u;
var<workgroup> tile: array<f16, TILE_SIZE>;

fn put(at: u32, v: vec4f) {
    let h = vec4<f16>(within_half(v));
    tile[at] = h.x;
    tile[at + 1u] = h.y;
    tile[at + 2u] = h.z;
    tile[at + 3u] = h.w;
}

fn zeros() -> coop_mat8x8<f32, C> { return coop_mat8x8<f32, C>(); }
fn fragment_a(at: u32, row: u32) -> coop_mat8x8<f16, A> { return coopLoadT<coop_mat8x8<f16, A>>(&tile[at], row); }
fn fragment_b(at: u32, row: u32) -> coop_mat8x8<f16, B> { return coopLoadT<coop_mat8x8<f16, B>>(&tile[at], row); }
fn fragment_b_t(at: u32, row: u32) -> coop_mat8x8<f16, B> { return coopLoad<coop_mat8x8<f16, B>>(&tile[at], row); }
