// Fragments of 16 x 16 for attention. Queries, then keys and values, lie in vectors of four halves.
const SIZE = 16u;
var<workgroup> tile: array<vec4<f16>, ROWS * ROW_W / 4u>;
var<workgroup> weights: array<f16, QUERIES * ROW_P>;

fn put(at: u32, v: vec4f) { tile[at / 4u] = half4(v); }
fn put_weight(at: u32, v: f32) { weights[at] = f16(v); }
fn zeros() -> coop_mat16x16<f32, C> { return coop_mat16x16<f32, C>(); }
fn q_fragment(at: u32) -> coop_mat16x16<f16, A> { return coopLoadT<coop_mat16x16<f16, A>>(&tile[at / 4u], ROW_W / 4u); }
fn k_fragment(at: u32) -> coop_mat16x16<f16, B> { return coopLoad<coop_mat16x16<f16, B>>(&tile[at / 4u], ROW_W / 4u); }
fn v_fragment(at: u32) -> coop_mat16x16<f16, B> { return coopLoadT<coop_mat16x16<f16, B>>(&tile[at / 4u], ROW_W / 4u); }
fn weight_fragment(at: u32) -> coop_mat16x16<f16, A> { return coopLoadT<coop_mat16x16<f16, A>>(&weights[at], ROW_P); }
