enable f16;
enable wgpu_cooperative_matrix;
struct P { m: u32, n: u32, k: u32, h: u32, w: u32, c: u32, wtap: u32, pad: u32 }
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<workgroup> ta: array<vec4<f16>, 1280>;
var<workgroup> tb: array<vec4<f16>, 2560>;
var<workgroup> st: array<f32, 4096>;
fn load_a(r: u32, k: u32, q: u32) -> vec4<f16> {
    let tap = k / p.c; let c0 = k % p.c;
    let x = r % p.w; let y = (r / p.w) % p.h; let n = r / (p.w * p.h);
    let yy = i32(y + tap / 3u) - 1; let xx = i32(x + tap % 3u) - 1;
    if (r >= p.m || yy < 0 || yy >= i32(p.h) || xx < 0 || xx >= i32(p.w)) { return vec4<f16>(); }
    return a[((n * p.h + u32(yy)) * p.w + u32(xx)) * (p.c / 4u) + c0 / 4u + q];
}
fn load_b(r: u32, k: u32, q: u32) -> vec4<f16> {
    if (r >= p.n || k + 4u * q >= p.k) { return vec4<f16>(); }
    return b[(r * p.k + k) / 4u + q];
}
@compute @workgroup_size(512)
fn main(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) t: u32) {
    let s = t / 32u;
    let sm = s / 4u; let sn = s % 4u;
    let m0 = g.x * 128u; let n0 = g.y * 256u;
    var c_0_0 = coop_mat16x16<f32, C>();
    var c_0_1 = coop_mat16x16<f32, C>();
    var c_0_2 = coop_mat16x16<f32, C>();
    var c_0_3 = coop_mat16x16<f32, C>();
    var c_1_0 = coop_mat16x16<f32, C>();
    var c_1_1 = coop_mat16x16<f32, C>();
    var c_1_2 = coop_mat16x16<f32, C>();
    var c_1_3 = coop_mat16x16<f32, C>();
    var ra_0: vec4<f16>;
    var ra_1: vec4<f16>;
    var rb_0: vec4<f16>;
    var rb_1: vec4<f16>;
    var rb_2: vec4<f16>;
    var rb_3: vec4<f16>;
        ra_0 = load_a(m0 + (t + 0u) / 8u, 0u, (t + 0u) % 8u);
        ra_1 = load_a(m0 + (t + 512u) / 8u, 0u, (t + 512u) % 8u);
        rb_0 = load_b(n0 + (t + 0u) / 8u, 0u, (t + 0u) % 8u);
        rb_1 = load_b(n0 + (t + 512u) / 8u, 0u, (t + 512u) % 8u);
        rb_2 = load_b(n0 + (t + 1024u) / 8u, 0u, (t + 1024u) % 8u);
        rb_3 = load_b(n0 + (t + 1536u) / 8u, 0u, (t + 1536u) % 8u);
    for (var k = 0u; k < p.k; k += 32u) {
        ta[(t + 0u) / 8u * 10u + (t + 0u) % 8u] = ra_0;
        ta[(t + 512u) / 8u * 10u + (t + 512u) % 8u] = ra_1;
        tb[(t + 0u) / 8u * 10u + (t + 0u) % 8u] = rb_0;
        tb[(t + 512u) / 8u * 10u + (t + 512u) % 8u] = rb_1;
        tb[(t + 1024u) / 8u * 10u + (t + 1024u) % 8u] = rb_2;
        tb[(t + 1536u) / 8u * 10u + (t + 1536u) % 8u] = rb_3;
        workgroupBarrier();
        if (k + 32u < p.k) {
        ra_0 = load_a(m0 + (t + 0u) / 8u, k + 32u, (t + 0u) % 8u);
        ra_1 = load_a(m0 + (t + 512u) / 8u, k + 32u, (t + 512u) % 8u);
        rb_0 = load_b(n0 + (t + 0u) / 8u, k + 32u, (t + 0u) % 8u);
        rb_1 = load_b(n0 + (t + 512u) / 8u, k + 32u, (t + 512u) % 8u);
        rb_2 = load_b(n0 + (t + 1024u) / 8u, k + 32u, (t + 1024u) % 8u);
        rb_3 = load_b(n0 + (t + 1536u) / 8u, k + 32u, (t + 1536u) % 8u);
        }
        for (var h = 0u; h < 8u; h += 4u) {
        let a_0 = coopLoadT<coop_mat16x16<f16, A>>(&ta[(sm * 32u + 0u) * 10u + h], 10u);
        let a_1 = coopLoadT<coop_mat16x16<f16, A>>(&ta[(sm * 32u + 16u) * 10u + h], 10u);
        let b_0 = coopLoad<coop_mat16x16<f16, B>>(&tb[(sn * 64u + 0u) * 10u + h], 10u);
        let b_1 = coopLoad<coop_mat16x16<f16, B>>(&tb[(sn * 64u + 16u) * 10u + h], 10u);
        let b_2 = coopLoad<coop_mat16x16<f16, B>>(&tb[(sn * 64u + 32u) * 10u + h], 10u);
        let b_3 = coopLoad<coop_mat16x16<f16, B>>(&tb[(sn * 64u + 48u) * 10u + h], 10u);
        c_0_0 = coopMultiplyAdd(a_0, b_0, c_0_0);
        c_0_1 = coopMultiplyAdd(a_0, b_1, c_0_1);
        c_0_2 = coopMultiplyAdd(a_0, b_2, c_0_2);
        c_0_3 = coopMultiplyAdd(a_0, b_3, c_0_3);
        c_1_0 = coopMultiplyAdd(a_1, b_0, c_1_0);
        c_1_1 = coopMultiplyAdd(a_1, b_1, c_1_1);
        c_1_2 = coopMultiplyAdd(a_1, b_2, c_1_2);
        c_1_3 = coopMultiplyAdd(a_1, b_3, c_1_3);
        }
        workgroupBarrier();
    }
    let at = s * 256u; let lane = t % 32u;
    coopStoreT(c_0_0, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 0u + e / 16u; let q = n0 + sn * 64u + 0u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_0_1, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 0u + e / 16u; let q = n0 + sn * 64u + 16u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_0_2, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 0u + e / 16u; let q = n0 + sn * 64u + 32u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_0_3, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 0u + e / 16u; let q = n0 + sn * 64u + 48u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_1_0, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 16u + e / 16u; let q = n0 + sn * 64u + 0u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_1_1, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 16u + e / 16u; let q = n0 + sn * 64u + 16u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_1_2, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 16u + e / 16u; let q = n0 + sn * 64u + 32u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
    coopStoreT(c_1_3, &st[at], 16u);
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 32u) {
        let r = m0 + sm * 32u + 16u + e / 16u; let q = n0 + sn * 64u + 48u + e % 16u;
        if (r < p.m && q < p.n) { c[r * p.n + q] = st[at + e]; }
    }
    workgroupBarrier();
}
