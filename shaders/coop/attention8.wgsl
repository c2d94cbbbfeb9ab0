// Fragments of 8 x 8 for attention. All lies in single halves, since Metal's writer takes no pointer to a vector.
const SIZE = 8u;
var<workgroup> tile: array<f16, ROWS * ROW_W>;
var<workgroup> weights: array<f16, QUERIES * ROW_P>;

fn put(at: u32, v: vec4f) {
    let h = half4(v);
    tile[at] = h.x;
    tile[at + 1u] = h.y;
    tile[at + 2u] = h.z;
    tile[at + 3u] = h.w;
}

fn put_weight(at: u32, v: f32) { weights[at] = f16(v); }
fn zeros() -> coop_mat8x8<f32, C> { return coop_mat8x8<f32, C>(); }
fn q_fragment(at: u32) -> coop_mat8x8<f16, A> { return coopLoadT<coop_mat8x8<f16, A>>(&tile[at], ROW_W); }
fn k_fragment(at: u32) -> coop_mat8x8<f16, B> { return coopLoad<coop_mat8x8<f16, B>>(&tile[at], ROW_W); }
fn v_fragment(at: u32) -> coop_mat8x8<f16, B> { return coopLoadT<coop_mat8x8<f16, B>>(&tile[at], ROW_W); }
fn weight_fragment(at: u32) -> coop_mat8x8<f16, A> { return coopLoadT<coop_mat8x8<f16, A>>(&weights[at], ROW_P); }
