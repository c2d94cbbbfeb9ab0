// y = softmax(scale q k^T) v for each head. Sums are f32. Backward does not use it: it stores scores, of some queries at a time.
//
// Layouts, and how heads are grouped: attention/heads.wgsl and rows.wgsl. Causal: query i sees the keys 0 to i.
//
// The scores are never stored. A thread holds 4 R_i queries, and their outputs so far, in registers (named 4x4 blocks, as in
// gemm.wgsl), and walks over the keys, four at a time: scores s, running maximum m, running sum l of exp(s - m), outputs rescaled
// when the maximum grows (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention). All threads of a head read the same keys
// at the same time, straight from the buffer: a copy in workgroup memory was no faster. Where the head is too wide for the
// registers of one thread, PARTS threads share its columns (attention/split.wgsl). Inside, scores are in units of log 2: exp2 is
// what the hardware has.

@group(0) @binding(4) var<storage, read_write> y: array<S>;

fn write_block(m: Rows, row: u32, c: u32, block: mat4x4f) {
    if !exists(c) { return; }
    if row < m.n { y[place(m, row, c)] = store(block[0]); }
    if row + 1u < m.n { y[place(m, row + 1u, c)] = store(block[1]); }
    if row + 2u < m.n { y[place(m, row + 2u, c)] = store(block[2]); }
    if row + 3u < m.n { y[place(m, row + 3u, c)] = store(block[3]); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let item = item_of((p.first + flat_group(group, groups)) * ITEMS + thread / PARTS, p.tq, p.batch * p.heads);
    let head = item.head;
    let row = item.row;
    let queries = query_rows(head / p.heads, head % p.heads);
    let keys = key_rows(head / p.heads, head % p.heads / (p.heads / p.kv_heads));
    let values = value_rows(head / p.heads, head % p.heads / (p.heads / p.kv_heads));
    let part = thread % PARTS; // has the columns part, part + PARTS, part + 2 PARTS, ..

    let q_i_d = q_block(queries, row + 4u * u_i, part + PARTS * u_d) * (p.scale * LOG2_E); //@ i d
    var y_i_d = mat4x4f(); //@ i d
    var m_i = vec4f(LOWEST); //@ i
    var l_i = vec4f(); //@ i
    let limit_i = limits(row + 4u * u_i); //@ i
    let end = end_of(select(p.tk, row + 4u * BLOCKS, p.causal == 1u), p.tk);
    for (var key = 0u; key < end; key += 4u) {
        var s_i = mat4x4f(); //@ i
        //@ for d
        let k_d = transpose(k_block(keys, key, part + PARTS * u_d));
        s_i += k_d * q_i_d; //@ i
        //@ end
        share(thread, u_i, s_i); //@ i
        add_parts(thread);
        s_i = hidden(total(thread, u_i, s_i), key, limit_i); //@ i
        let old_i = m_i; //@ i
        m_i = max(m_i, max_of_columns(s_i)); //@ i
        let f_i = exp2(old_i - m_i); //@ i
        s_i = weights(s_i, m_i); //@ i
        l_i = l_i * f_i + sum_of_columns(s_i); //@ i
        //@ for d
        let v_d = v_block(values, key, part + PARTS * u_d);
        y_i_d = scale_columns(y_i_d, f_i) + v_d * s_i; //@ i
        //@ end
    }
    let results = result_rows(head / p.heads, head % p.heads);
    write_block(results, row + 4u * u_i, part + PARTS * u_d, scale_columns(y_i_d, 1.0 / l_i)); //@ i d
}
