// y = softmax(scale q k^T) v for each head, by the matrix units of a GPU: q, k, v and the weights are rounded to f16, scores and sums are
// f32. Where heads lie: attention/heads.wgsl; fragments: coop/size*.wgsl. Causal: query i sees the keys 0 to i.
//
// A workgroup has QUERIES queries of a head, SIZE for each of its subgroups, and walks over the keys, KEYS at a time, as FlashAttention does
// (Dao et al. 2022): scores by matrix units, softmax by threads, its product with v by matrix units. PER_ROW threads share a query: each
// finds the maximum, and has a share of the exponentials and of the columns of y, which are added up outside of the matrix units. Heads
// are filled up with zeros to WIDE columns. Scores are in units of log 2. Each thing that is stored in workgroup memory is read after
// a barrier, and every operation on fragments is reached by all threads of a subgroup together.

const THREADS = SUBGROUPS * SUBGROUP;
const QUERIES = SUBGROUPS * SIZE;
const KEYS = R_j * SIZE;
const WIDE = R_w * SIZE;
const W4 = WIDE / 4u;
const PER_ROW = SUBGROUP / SIZE;
// Rows in workgroup memory, with some numbers between them, so that they begin in different banks.
const ROW_W = WIDE + 8u;
const ROW_P = KEYS + 8u;
const ROW_S = max(KEYS, WIDE) + 4u;
// The tile: queries first, then keys above values; behind them the weights.
const WEIGHTS = max(QUERIES, 2u * KEYS) * ROW_W;
const TILE_SIZE = WEIGHTS + QUERIES * ROW_P;
const LOG2_E = 1.4426950408889634;
const LOWEST = -3e38;

@group(0) @binding(4) var<storage, read_write> y: array<S>;

// Scores, then sums of weights times values.
var<workgroup> sums: array<f32, QUERIES * ROW_S + 16u>;

fn sums4(at: u32) -> vec4f { return vec4f(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]); }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let tiles = (p.tq + QUERIES - 1u) / QUERIES;
    let item = p.first + group.x + group.y * groups.x;
    if item >= tiles * p.batch * p.heads { return; }
    let first = item % tiles * QUERIES;
    let b = item / tiles / p.heads;
    let h = item / tiles % p.heads;
    let queries = query_rows(b, h);
    let keys = key_rows(b, h / (p.heads / p.kv_heads));
    let values = value_rows(b, h / (p.heads / p.kv_heads));

    for (var i = thread; i < QUERIES * W4; i += THREADS) {
        let c = i % W4;
        let x = load(q[place(queries, first + i / W4, min(c, p.width - 1u))]) * (p.scale * LOG2_E);
        put(i / W4 * ROW_W + c * 4u, select(vec4f(), x, c < p.width));
    }
    workgroupBarrier();
    let subgroup = thread / SUBGROUP;
    let q_w = fragment_a(subgroup * SIZE * ROW_W + u_w * SIZE, ROW_W); //@ w
    workgroupBarrier();

    let row = subgroup * SIZE + thread % SUBGROUP / PER_ROW;
    let lane = thread % PER_ROW;
    let limit = select(p.tk, min(p.tk, first + row + 1u), p.causal == 1u);
    let end = select(p.tk, min(p.tk, first + QUERIES), p.causal == 1u);
    var y_o = vec4f(); //@ o
    var m = LOWEST;
    var l = 0.0;
    for (var key = 0u; key < end; key += KEYS) {
        for (var i = thread; i < 2u * KEYS * W4; i += THREADS) {
            let c = i % W4;
            let r = key + i / W4 % KEYS;
            let at = min(c, p.width - 1u);
            var x = vec4f();
            if i < KEYS * W4 { x = load(k[place(keys, r, at)]); } else { x = load(v[place(values, r, at)]); }
            put(i / W4 * ROW_W + c * 4u, select(vec4f(), x, c < p.width && r < p.tk));
        }
        workgroupBarrier();
        //@ for j
        var s_j = zeros();
        s_j = coopMultiplyAdd(q_w, fragment_b_t(u_j * SIZE * ROW_W + u_w * SIZE, ROW_W), s_j); //@ w
        let s_at_j = subgroup * SIZE * ROW_S + u_j * SIZE;
        coopStoreT(s_j, &sums[s_at_j], ROW_S);
        //@ end
        workgroupBarrier();
        var most = m;
        for (var c = 0u; c < KEYS; c++) { most = max(most, select(LOWEST, sums[row * ROW_S + c], key + c < limit)); }
        let f = exp2(m - most);
        m = most;
        l *= f;
        for (var c = lane * 4u; c < KEYS; c += PER_ROW * 4u) {
            let e = select(vec4f(), exp2(sums4(row * ROW_S + c) - m), key + c + vec4u(0u, 1u, 2u, 3u) < vec4u(limit));
            l += dot(e, vec4f(1.0));
            put(WEIGHTS + row * ROW_P + c, e);
        }
        workgroupBarrier();
        //@ for w
        var o_w = zeros();
        o_w = coopMultiplyAdd(fragment_a(WEIGHTS + subgroup * SIZE * ROW_P + u_j * SIZE, ROW_P), fragment_b((KEYS + u_j * SIZE) * ROW_W + u_w * SIZE, ROW_W), o_w); //@ j
        let o_at_w = subgroup * SIZE * ROW_S + u_w * SIZE;
        coopStoreT(o_w, &sums[o_at_w], ROW_S);
        //@ end
        workgroupBarrier();
        y_o = y_o * f + sums4(row * ROW_S + (lane + u_o * PER_ROW) * 4u); //@ o
    }
    workgroupBarrier();
    sums[row * ROW_S + lane] = l;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < PER_ROW; i++) { total += sums[row * ROW_S + i]; }
    let results = result_rows(b, h);
    if first + row >= p.tq { return; }
    if lane + u_o * PER_ROW < p.width { y[place(results, first + row, lane + u_o * PER_ROW)] = store(y_o / total); } //@ o
}
