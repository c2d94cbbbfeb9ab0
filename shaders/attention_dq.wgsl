// Backward of attention.wgsl with respect to q, and delta = rowsum(dy * y), one number per query, which attention_dkv.wgsl reads too.
//
//   s = scale q k^T, p = exp(s - lse), t = dy v^T, ds = p * (t - delta), dq = scale ds k.  Reads q, k, v, dy, y, lse.
//
// Layouts: attention/rows.wgsl. As in the forward pass a thread holds 4 R_i queries and walks over the keys; scores are recomputed.

@group(0) @binding(5) var<storage, read> y: array<vec4f>;
@group(0) @binding(6) var<storage, read> lse: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> delta: array<f32>;

fn y_block(m: Rows, row: u32, c: u32) -> mat4x4f {
    if !exists(c) { return mat4x4f(); }
    return mat4x4f(y[place(m, row, c)], y[place(m, row + 1u, c)], y[place(m, row + 2u, c)], y[place(m, row + 3u, c)]);
}

fn lse_of(at: u32, row: u32) -> vec4f {
    let r = at + min(row + vec4u(0u, 1u, 2u, 3u), vec4u(p.tq - 1u));
    return vec4f(lse[r.x], lse[r.y], lse[r.z], lse[r.w]);
}

fn write_dq(m: Rows, row: u32, c: u32, block: mat4x4f) {
    if !exists(c) { return; }
    if row < m.n { dq[place(m, row, c)] = block[0]; }
    if row + 1u < m.n { dq[place(m, row + 1u, c)] = block[1]; }
    if row + 2u < m.n { dq[place(m, row + 2u, c)] = block[2]; }
    if row + 3u < m.n { dq[place(m, row + 3u, c)] = block[3]; }
}

fn write_delta(at: u32, row: u32, value: vec4f) {
    if row < p.tq { delta[at + row] = value.x; }
    if row + 1u < p.tq { delta[at + row + 1u] = value.y; }
    if row + 2u < p.tq { delta[at + row + 2u] = value.z; }
    if row + 3u < p.tq { delta[at + row + 3u] = value.w; }
}

/// weights * (t - delta), one delta for each column.
fn ds_of(weights: mat4x4f, t: mat4x4f, d: vec4f) -> mat4x4f {
    return mat4x4f(weights[0] * (t[0] - d.x), weights[1] * (t[1] - d.y), weights[2] * (t[2] - d.z), weights[3] * (t[3] - d.w));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let item = item_of(flat_group(group, groups) * ITEMS + thread / PARTS, p.tq, p.batch * p.heads);
    let head = item.head;
    let row = item.row;
    let queries = query_rows(head / p.heads, head % p.heads);
    let keys = key_rows(head / p.heads, head % p.heads / (p.heads / p.kv_heads));
    let part = thread % PARTS;

    let q_i_d = q_block(queries, row + 4u * u_i, part + PARTS * u_d) * (p.scale * LOG2_E); //@ i d
    let g_i_d = dy_block(queries, row + 4u * u_i, part + PARTS * u_d); //@ i d
    var e_i = mat4x4f(); //@ i
    e_i += times(g_i_d, y_block(queries, row + 4u * u_i, part + PARTS * u_d)); //@ i d
    share(thread, u_i, e_i); //@ i
    add_parts(thread);
    let delta_i = sum_of_columns(total(thread, u_i, e_i)); //@ i
    let lse_i = lse_of(head * p.tq, row + 4u * u_i) * LOG2_E; //@ i
    let limit_i = limits(row + 4u * u_i); //@ i
    var dq_i_d = mat4x4f(); //@ i d
    let end = end_of(select(p.tk, row + 4u * BLOCKS, p.causal == 1u), p.tk);
    for (var key = 0u; key < end; key += 4u) {
        var s_i = mat4x4f(); //@ i
        var t_i = mat4x4f(); //@ i
        let k_d = k_block(keys, key, part + PARTS * u_d); //@ d
        //@ for d
        s_i += transpose(k_d) * q_i_d; //@ i
        let v_d = transpose(v_block(keys, key, part + PARTS * u_d));
        t_i += v_d * g_i_d; //@ i
        //@ end
        share(thread, u_i, s_i); //@ i
        share(thread, BLOCKS + u_i, t_i); //@ i
        add_parts(thread);
        s_i = weights(hidden(total(thread, u_i, s_i), key, limit_i), lse_i); //@ i
        s_i = ds_of(s_i, total(thread, BLOCKS + u_i, t_i), delta_i); //@ i
        dq_i_d += k_d * s_i; //@ d i
    }
    write_dq(queries, row + 4u * u_i, part + PARTS * u_d, dq_i_d * p.scale); //@ i d
    if part == 0u {
        write_delta(head * p.tq, row + 4u * u_i, delta_i); //@ i
    }
}
