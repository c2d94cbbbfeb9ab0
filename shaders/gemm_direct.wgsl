// C = act(A B + bias) + residual, for each entry z of a batch, on a CPU: without workgroup memory, whose place caches take, and without
// barriers, at which a CPU driver saves and loads all that is alive.
//
// Shapes, loaders and the pieces of K: gemm/result.wgsl.
//
// A thread makes R_i x R_j blocks of 4 x 4 of C. It has rows of its own, and its columns are those of all threads of its workgroup: the
// driver sees that they read the same of B, and reads it once. Where ROW_STEP is THREADS, threads that run side by side, in the lanes of
// one register, have neighbouring rows: what they read of A lies together.

const TILE_M = THREADS * 4u * R_i;
const TILE_N = 4u * R_j;

/// c + b a, as sums of fused products: a driver does not fuse what WGSL says in two operations.
fn add_product(c: mat4x4f, b: mat4x4f, a: mat4x4f) -> mat4x4f {
    return mat4x4f(add_row(c[0], b, a[0]), add_row(c[1], b, a[1]), add_row(c[2], b, a[2]), add_row(c[3], b, a[3]));
}

fn add_row(c: vec4f, b: mat4x4f, a: vec4f) -> vec4f {
    return fma(b[3], a.wwww, fma(b[2], a.zzzz, fma(b[1], a.yyyy, fma(b[0], a.xxxx, c))));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let z = group.z / p.splits;
    let tile = p.first + flat_group(group, groups);
    let m0 = (tile / div_up(p.n, TILE_N)) * TILE_M + thread * select(1u, 4u, ROW_STEP == 1u);
    let n0 = (tile % div_up(p.n, TILE_N)) * TILE_N;
    let piece = div_up(div_up(k_size(z), p.splits), 4u) * 4u;
    let k_begin = (group.z % p.splits) * piece;
    let k_end = min(k_begin + piece, k_size(z));

    let rows_i = prepare_a(z, m0 + u_i * 4u * THREADS); //@ i
    let cols_j = prepare_b(z, n0 + u_j * 4u); //@ j
    var c_i_j = start(n0 + u_j * 4u); //@ i j
    if RUNS == 1u {
        for (var k = k_begin; k < k_end;) {
            let run_i = run_a(rows_i, k); //@ i
            let end = min(run_end(k), k_end);
            for (; k < end; k += 4u) {
                let a_i = load_run(rows_i, run_i, k, k_end); //@ i
                //@ for j
                let b_j = load_b(cols_j, k, k_end);
                c_i_j = add_product(c_i_j, b_j, a_i); //@ i
                //@ end
            }
        }
    } else {
        for (var k = k_begin; k < k_end; k += 4u) {
            let a_i = load_a(rows_i, k, k_end); //@ i
            //@ for j
            let b_j = load_b(cols_j, k, k_end);
            c_i_j = add_product(c_i_j, b_j, a_i); //@ i
            //@ end
        }
    }
    finish_block(group.z, m0 + u_i * 4u * THREADS, n0 + u_j * 4u, c_i_j); //@ i j
}
