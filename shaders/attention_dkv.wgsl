// Backward of attention.wgsl with respect to k and v.
//
//   s = scale q k^T, p = exp(s - lse), t = dy v^T, ds = p * (t - delta), dv = p^T dy, dk = scale ds^T q.
//   Reads q, k, v, dy, lse, and delta of attention_dq.wgsl.
//
// Layouts: attention/rows.wgsl. A thread holds 4 R_i keys and walks over the queries of all heads that share them, always in the same
// order: no atomics. In its blocks, columns are keys and rows queries.

@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dk: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> dv: array<vec4f>;

fn write_block(m: Rows, row: u32, c: u32, dk_block: mat4x4f, dv_block: mat4x4f) {
    write_row(m, row, c, dk_block[0], dv_block[0]);
    write_row(m, row + 1u, c, dk_block[1], dv_block[1]);
    write_row(m, row + 2u, c, dk_block[2], dv_block[2]);
    write_row(m, row + 3u, c, dk_block[3], dv_block[3]);
}

fn write_row(m: Rows, row: u32, c: u32, dk_row: vec4f, dv_row: vec4f) {
    if row >= m.n || !exists(c) { return; }
    dk[place(m, row, c)] = dk_row;
    dv[place(m, row, c)] = dv_row;
}

/// Weights of four keys from `key` on for four queries; zero where a query may not look, or does not exist.
fn weights_of(s: mat4x4f, lse: vec4f, key: u32, query: vec4u) -> mat4x4f {
    return mat4x4f(
        seen(exp2(s[0] - lse), key, query), seen(exp2(s[1] - lse), key + 1u, query),
        seen(exp2(s[2] - lse), key + 2u, query), seen(exp2(s[3] - lse), key + 3u, query),
    );
}

fn seen(weight: vec4f, key: u32, query: vec4u) -> vec4f {
    let first = select(0u, key, p.causal == 1u);
    return select(vec4f(), weight, query - first < vec4u(max(p.tq, first) - first)); // first <= query < tq
}

/// weights * (t - delta), one delta for each row.
fn ds_of(weights: mat4x4f, t: mat4x4f, d: vec4f) -> mat4x4f {
    return mat4x4f(weights[0] * (t[0] - d), weights[1] * (t[1] - d), weights[2] * (t[2] - d), weights[3] * (t[3] - d));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let item = item_of(flat_group(group, groups) * ITEMS + thread / PARTS, p.tk, p.batch * p.kv_heads);
    let kv_head = item.head;
    let key = item.row;
    let batch = kv_head / p.kv_heads;
    let keys = key_rows(batch, kv_head % p.kv_heads);
    let part = thread % PARTS;

    let k_i_d = k_block(keys, key + 4u * u_i, part + PARTS * u_d) * (p.scale * LOG2_E); //@ i d
    let v_i_d = v_block(keys, key + 4u * u_i, part + PARTS * u_d); //@ i d
    var dk_i_d = mat4x4f(); //@ i d
    var dv_i_d = mat4x4f(); //@ i d
    let first = first_of(select(0u, key / 4u * 4u, p.causal == 1u));
    let shared_by = p.heads / p.kv_heads;
    for (var i = 0u; i < shared_by; i++) {
        let h = kv_head % p.kv_heads * shared_by + i;
        let queries = query_rows(batch, h);
        for (var row = first; row < p.tq; row += 4u) {
            let query = row + vec4u(0u, 1u, 2u, 3u);
            var s_i = mat4x4f(); //@ i
            var t_i = mat4x4f(); //@ i
            let q_d = q_block(queries, row, part + PARTS * u_d); //@ d
            let g_d = dy_block(queries, row, part + PARTS * u_d); //@ d
            s_i += transpose(q_d) * k_i_d; //@ d i
            t_i += transpose(g_d) * v_i_d; //@ d i
            share(thread, u_i, s_i); //@ i
            share(thread, BLOCKS + u_i, t_i); //@ i
            add_parts(thread);
            // Read no earlier than needed: wide heads leave no registers to spare.
            let at = (batch * p.heads + h) * p.tq + min(query, vec4u(p.tq - 1u));
            let lse4 = vec4f(lse[at.x], lse[at.y], lse[at.z], lse[at.w]) * LOG2_E;
            let delta4 = vec4f(delta[at.x], delta[at.y], delta[at.z], delta[at.w]);
            s_i = weights_of(total(thread, u_i, s_i), lse4, key + 4u * u_i, query); //@ i
            t_i = ds_of(s_i, total(thread, BLOCKS + u_i, t_i), delta4); //@ i
            dv_i_d += g_d * s_i; //@ d i
            dk_i_d += q_d * t_i; //@ d i
        }
    }
    write_block(keys, key + 4u * u_i, part + PARTS * u_d, dk_i_d * p.scale, dv_i_d); //@ i d
}
