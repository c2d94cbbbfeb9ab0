enable f16;
enable wgpu_cooperative_matrix;
struct P { m: u32, n: u32, k: u32, h: u32, w: u32, c: u32, wtap: u32, pad: u32 }
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<workgroup> ta: array<vec4<f16>, 2560>;
var<workgroup> tb: array<vec4<f16>, 1280>;
var<workgroup> st: array<f32, 4096>;
fn load_a(r: u32, k: u32, q: u32) -> vec4<f16> {
    if (r >= p.m || k + 4u * q >= p.k) { return vec4<f16>(); }
    return a[(r * p.k + k) / 4u + q];
}
fn load_b(r: u32, k: u32, q: u32) -> vec4<f16> {
    if (r >= p.n || k + 4u * q >= p.k) { return vec4<f16>(); }
    return b[(r * p.k + k) / 4u + q];
}
@compute @workgroup_size(512)
fn main(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) t: u32) {
    let s = t / 32u;
    let sm = s / 4u; let sn = s % 4u;
    let m0 = g.x * 256u; let n0 = g.y * 128u;
    var c_0_0 = coop_mat16x16<f32, C>();
    var c_0_1 = coop_mat16x16<f32, C>();
    var c_1_0 = coop_mat16x16<f32, C>();
    var c_1_1 = coop_mat16x16<f32, C>();
    var c_2_0 = coop_mat16x16<f32, C>();
    var c_2_1 = coop_mat16x16<f32, C>();
    var c_3_0 = coop_mat16x16<f32, C>();
    var c_3_1 = coop_mat16x16<f32, C>();
    for (var k = 0u; k < p.k; k += 32u) {
        ta[(t + 0u) / 8u * 10u + (t + 0u) % 8u] = load_a(m0 + (t + 0u) / 8u, k, (t + 0u) % 8u);
        ta[(t + 512u) / 8u * 10u + (t + 512u) % 8u] = load_a(m0 + (t + 512u) / 8u, k, (t + 512u) % 8u);
        ta[(t + 1024u) / 8u * 10u + (t + 1024u) % 8u] = load_a(m0 + (t + 1024u) / 8u, k, (t + 1024u) % 8u);
        ta[(t + 1536u) / 8u * 10u + (t + 1536u) % 8u] = load_a(m0 + (t + 1536u) / 8u, k, (t + 1536u) % 8u);
        tb[(t + 0u) / 8u * 10u + (t + 0u) % 8u] = load_b(n0 + (t + 0u) / 8u, k, (t + 0u) % 8u);
        tb[(t + 512u) / 8u * 10u + (t + 512u) % 8u] = load_b(n0 + (t + 512u) / 8u, k, (t + 512u) % 8u);
        workgroupBarrier();
        for (var h = 0u; h < 8u; h += 4u) {
        let a_0 = coopLoadT<coop_mat16x16<f16, A>>(&ta[(sm * 64u + 0u) * 10u + h], 10u);
        let a_1 = coopLoadT<coop_mat16x16<f16, A>>(&ta[(sm * 64u + 16u) * 10u + h], 10u);
        let a_2 = coopLoadT<coop_mat16x16<f16, A>>(&ta[(sm * 64u + 32u) * 10u + h], 10u);
        let a_3 = coopLoadT<coop_mat16x16<f16, A>>(&ta[(sm * 64u + 48u) * 10u + h], 10u);
        let b_0 = coopLoad<coop_mat16x16<f16, B>>(&tb[(sn * 32u + 0u) * 10u + h], 10u);
        let b_1 = coopLoad<coop_mat16x16<f16, B>>(&tb[(sn * 32u + 16u) * 10u + h], 10u);
        c_0_0 = coopMultiplyAdd(a_0, b_0, c_0_0);
        c_0_1 = coopMultiplyAdd(a_0, b_1, c_0_1);
        c_1_0 = coopMultiplyAdd(a_1, b_0, c_1_0);
        c_1_1 = coopMultiplyAdd(a_1, b_1, c_1_1);
        c_2_0 = coopMultiplyAdd(a_2, b_0, c_2_0);
        c_2_1 = coopMultiplyAdd(a_2, b_1, c_2_1);
        c_3_0 = coopMultiplyAdd(a_3, b_0, c_3_0);
        c_3_1 = coopMultiplyAdd(a_3, b_1, c_3_1);
        }
        workgroupBarrier();
    }
    let at = s * 256u; let lane = t % 32u;
    coopStoreT(c_0_0, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 0u + e / 16u; let q = n0 + sn * 32u + 0u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_0_1, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 0u + e / 16u; let q = n0 + sn * 32u + 16u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_1_0, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 16u + e / 16u; let q = n0 + sn * 32u + 0u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_1_1, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 16u + e / 16u; let q = n0 + sn * 32u + 16u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_2_0, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 32u + e / 16u; let q = n0 + sn * 32u + 0u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_2_1, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 32u + e / 16u; let q = n0 + sn * 32u + 16u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_3_0, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 48u + e / 16u; let q = n0 + sn * 32u + 0u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_3_1, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 64u + 48u + e / 16u; let q = n0 + sn * 32u + 16u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
}
