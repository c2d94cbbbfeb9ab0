enable f16;
enable wgpu_cooperative_matrix;
struct P { tq: u32, tk: u32, heads: u32, scale: f32, a: u32, b: u32, c: u32, e: u32 }
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> q: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;
var<workgroup> tq: array<vec4<f16>, 448>;
var<workgroup> tk: array<vec4<f16>, 896>;
var<workgroup> tv: array<vec4<f16>, 896>;
var<workgroup> sc: array<f32, 2176>;
var<workgroup> pr: array<f16, 2304>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) t: u32) {
    let s = t / 32u; let d4 = 40u / 4u; let step = p.heads * d4;
    let q0 = g.x * 32u; let head = g.y; let batch = g.z;
    for (var i = t; i < 32u * 12u; i += 64u) {
        let r = q0 + i / 12u; let c = i % 12u;
        var x = vec4<f16>();
        if (r < p.tq && c < d4) { x = vec4<f16>(vec4f(q[(batch * p.tq + r) * step + head * d4 + c]) * p.scale); }
        tq[i / 12u * 14u + c] = x;
    }
    workgroupBarrier();
    let q_0 = coopLoadT<coop_mat16x16<f16, A>>(&tq[s * 16u * 14u + 0u], 14u);
    let q_1 = coopLoadT<coop_mat16x16<f16, A>>(&tq[s * 16u * 14u + 4u], 14u);
    let q_2 = coopLoadT<coop_mat16x16<f16, A>>(&tq[s * 16u * 14u + 8u], 14u);
    var o_0 = vec4f();
    var o_1 = vec4f();
    var o_2 = vec4f();
    var o_3 = vec4f();
    var o_4 = vec4f();
    var o_5 = vec4f();
    var m = -1e30; var l = 0.0;
    let r = t / 2u; let h = t % 2u;
    for (var k0 = 0u; k0 < p.tk; k0 += 64u) {
        for (var i = t; i < 64u * 12u; i += 64u) {
            let r = k0 + i / 12u; let c = i % 12u;
            var x = vec4<f16>(); var z = vec4<f16>();
            if (r < p.tk && c < d4) { let at = (batch * p.tk + r) * step + head * d4 + c; x = k[at]; z = v[at]; }
            tk[i / 12u * 14u + c] = x; tv[i / 12u * 14u + c] = z;
        }
        workgroupBarrier();
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(q_0, coopLoad<coop_mat16x16<f16, B>>(&tk[0u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(q_1, coopLoad<coop_mat16x16<f16, B>>(&tk[0u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(q_2, coopLoad<coop_mat16x16<f16, B>>(&tk[0u * 14u + 8u], 14u), c);
        let at = s * 16u * 68u + 0u; coopStoreT(c, &sc[at], 68u); }
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(q_0, coopLoad<coop_mat16x16<f16, B>>(&tk[16u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(q_1, coopLoad<coop_mat16x16<f16, B>>(&tk[16u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(q_2, coopLoad<coop_mat16x16<f16, B>>(&tk[16u * 14u + 8u], 14u), c);
        let at = s * 16u * 68u + 16u; coopStoreT(c, &sc[at], 68u); }
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(q_0, coopLoad<coop_mat16x16<f16, B>>(&tk[32u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(q_1, coopLoad<coop_mat16x16<f16, B>>(&tk[32u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(q_2, coopLoad<coop_mat16x16<f16, B>>(&tk[32u * 14u + 8u], 14u), c);
        let at = s * 16u * 68u + 32u; coopStoreT(c, &sc[at], 68u); }
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(q_0, coopLoad<coop_mat16x16<f16, B>>(&tk[48u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(q_1, coopLoad<coop_mat16x16<f16, B>>(&tk[48u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(q_2, coopLoad<coop_mat16x16<f16, B>>(&tk[48u * 14u + 8u], 14u), c);
        let at = s * 16u * 68u + 48u; coopStoreT(c, &sc[at], 68u); }
        workgroupBarrier();
        var most = m;
        for (var i = 0u; i < 32u; i++) {
            let c = i * 2u + h;
            if (k0 + c < p.tk) { most = max(most, sc[r * 68u + c]); }
        }
        most = max(most, subgroupShuffleXor(most, 1u));
        let alpha = exp(m - most); m = most;
        var sum = 0.0;
        for (var i = 0u; i < 32u; i++) {
            let c = i * 2u + h;
            var e = 0.0;
            if (k0 + c < p.tk) { e = exp(sc[r * 68u + c] - most); }
            sum += e;
            pr[r * 72u + c] = f16(e);
        }
        l = l * alpha + sum;
        workgroupBarrier();
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 0u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[0u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 16u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[16u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 32u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[32u * 14u + 0u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 48u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[48u * 14u + 0u], 14u), c);
        let at = s * 16u * 68u + 0u; coopStoreT(c, &sc[at], 68u); }
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 0u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[0u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 16u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[16u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 32u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[32u * 14u + 4u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 48u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[48u * 14u + 4u], 14u), c);
        let at = s * 16u * 68u + 16u; coopStoreT(c, &sc[at], 68u); }
        { var c = coop_mat16x16<f32, C>();
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 0u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[0u * 14u + 8u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 16u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[16u * 14u + 8u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 32u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[32u * 14u + 8u], 14u), c);
        c = coopMultiplyAdd(coopLoadT<coop_mat16x16<f16, A>>(&pr[s * 16u * 72u + 48u], 72u), coopLoadT<coop_mat16x16<f16, B>>(&tv[48u * 14u + 8u], 14u), c);
        let at = s * 16u * 68u + 32u; coopStoreT(c, &sc[at], 68u); }
        workgroupBarrier();
        { let at = r * 68u + h * 24u + 0u; o_0 = o_0 * alpha + vec4f(sc[at], sc[at + 1u], sc[at + 2u], sc[at + 3u]); }
        { let at = r * 68u + h * 24u + 4u; o_1 = o_1 * alpha + vec4f(sc[at], sc[at + 1u], sc[at + 2u], sc[at + 3u]); }
        { let at = r * 68u + h * 24u + 8u; o_2 = o_2 * alpha + vec4f(sc[at], sc[at + 1u], sc[at + 2u], sc[at + 3u]); }
        { let at = r * 68u + h * 24u + 12u; o_3 = o_3 * alpha + vec4f(sc[at], sc[at + 1u], sc[at + 2u], sc[at + 3u]); }
        { let at = r * 68u + h * 24u + 16u; o_4 = o_4 * alpha + vec4f(sc[at], sc[at + 1u], sc[at + 2u], sc[at + 3u]); }
        { let at = r * 68u + h * 24u + 20u; o_5 = o_5 * alpha + vec4f(sc[at], sc[at + 1u], sc[at + 2u], sc[at + 3u]); }
        workgroupBarrier();
    }
    l += subgroupShuffleXor(l, 1u);
    if (q0 + r < p.tq) {
        let at = (batch * p.tq + q0 + r) * step + head * d4;
        if (h * 6u + 0u < d4) { y[at + h * 6u + 0u] = o_0 / l; }
        if (h * 6u + 1u < d4) { y[at + h * 6u + 1u] = o_1 / l; }
        if (h * 6u + 2u < d4) { y[at + h * 6u + 2u] = o_2 / l; }
        if (h * 6u + 3u < d4) { y[at + h * 6u + 3u] = o_3 / l; }
        if (h * 6u + 4u < d4) { y[at + h * 6u + 4u] = o_4 / l; }
        if (h * 6u + 5u < d4) { y[at + h * 6u + 5u] = o_5 / l; }
    }
}
