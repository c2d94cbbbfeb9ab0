// C = act(A B + bias) + residual, for each entry z of a batch, by the matrix units of a GPU (WGSL's cooperative matrices, of which naga
// says more than the standard so far): A and B are rounded to f16, sums are f32.
//
// Shapes, loaders and the pieces of K: gemm/result.wgsl. Fragments, and how tiles lie in workgroup memory: coop/size*.wgsl.
//
// A workgroup makes a TILE_M x TILE_N tile of C, walking over K in slices of TILE_K that it keeps in workgroup memory. Its SG_M x SG_N
// subgroups hold R_i x R_j fragments of SIZE x SIZE each. With PREFETCH = 1 the next slice is on its way from memory while this one is
// multiplied: better where loaders do arithmetic. Every operation on fragments is reached by all threads of a subgroup together.

const SUBGROUPS = SG_M * SG_N;
const THREADS = SUBGROUPS * SUBGROUP;
const TILE_M = SG_M * R_i * SIZE;
const TILE_N = SG_N * R_j * SIZE;
const K4 = TILE_K / 4u;
const N4 = TILE_N / 4u;
const A_BLOCKS = TILE_M * TILE_K / 16u;
const B_BLOCKS = TILE_N * TILE_K / 16u;
// Rows of the tiles, with eight halves between them, so that they begin in different banks.
const ROW_A = TILE_K + 8u;
const ROW_B = TILE_N + 8u;
// The tile of A [row][k], then that of B [k][column].
const B_START = TILE_M * ROW_A;
const TILE_SIZE = B_START + TILE_K * ROW_B;

var<workgroup> stage: array<f32, SUBGROUPS * SIZE * SIZE>;

fn put_block_a(q: u32, block: mat4x4f) {
    let at = q / K4 * 4u * ROW_A + q % K4 * 4u;
    put(at, block[0]);
    put(at + ROW_A, block[1]);
    put(at + 2u * ROW_A, block[2]);
    put(at + 3u * ROW_A, block[3]);
}

fn k4_of_b(q: u32) -> u32 { return select(q / N4, q % K4, B_ALONG_K == 1u); }
fn n4_of_b(q: u32) -> u32 { return select(q % N4, q / K4, B_ALONG_K == 1u); }

fn put_block_b(q: u32, block: mat4x4f) {
    let at = B_START + k4_of_b(q) * 4u * ROW_B + n4_of_b(q) * 4u;
    put(at, block[0]);
    put(at + ROW_B, block[1]);
    put(at + 2u * ROW_B, block[2]);
    put(at + 3u * ROW_B, block[3]);
}

/// Writes a fragment, which lies in `stage`, to C.
fn finish_fragment(z: u32, m: u32, n: u32, at: u32, lane: u32) {
    for (var q = lane; q < SIZE * SIZE / 4u; q += SUBGROUP) {
        let column = n + q % (SIZE / 4u) * 4u;
        let begin = at + q * 4u;
        let sum = vec4f(stage[begin], stage[begin + 1u], stage[begin + 2u], stage[begin + 3u]);
        if column < p.n { finish(c_row(z, m + q / (SIZE / 4u)), column, sum + bias_of(column)); }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let z = group.z / p.splits;
    // As flat_group and div_up say: naga does not see that a function of uniform numbers is uniform.
    let tile = p.first + group.x + group.y * groups.x;
    let tiles_n = (p.n + TILE_N - 1u) / TILE_N;
    let m0 = tile / tiles_n * TILE_M;
    let n0 = tile % tiles_n * TILE_N;
    if m0 >= p.m { return; }
    let subgroup = thread / SUBGROUP;
    let m1 = subgroup / SG_N * R_i * SIZE;
    let n1 = subgroup % SG_N * R_j * SIZE;

    let piece = div_up(div_up(k_size(z), p.splits), TILE_K) * TILE_K;
    let k_begin = (group.z % p.splits) * piece;
    let k_end = min(k_begin + piece, k_size(z));

    let rows_s = prepare_a(z, m0 + (thread + u_s * THREADS) / K4 * 4u); //@ s
    let cols_t = prepare_b(z, n0 + n4_of_b(thread + u_t * THREADS) * 4u); //@ t
    var a_s = mat4x4f(); //@ s
    var b_t = mat4x4f(); //@ t
    var c_i_j = zeros(); //@ i j
    if PREFETCH == 1u {
        a_s = load_a(rows_s, k_begin + (thread + u_s * THREADS) % K4 * 4u, k_end); //@ s
        b_t = load_b(cols_t, k_begin + k4_of_b(thread + u_t * THREADS) * 4u, k_end); //@ t
    }
    for (var k = k_begin; k < k_end; k += TILE_K) {
        if PREFETCH == 0u {
            a_s = load_a(rows_s, k + (thread + u_s * THREADS) % K4 * 4u, k_end); //@ s
            b_t = load_b(cols_t, k + k4_of_b(thread + u_t * THREADS) * 4u, k_end); //@ t
        }
        if thread + u_s * THREADS < A_BLOCKS { put_block_a(thread + u_s * THREADS, a_s); } //@ s
        if thread + u_t * THREADS < B_BLOCKS { put_block_b(thread + u_t * THREADS, b_t); } //@ t
        workgroupBarrier();
        if PREFETCH == 1u {
            a_s = load_a(rows_s, k + TILE_K + (thread + u_s * THREADS) % K4 * 4u, k_end); //@ s
            b_t = load_b(cols_t, k + TILE_K + k4_of_b(thread + u_t * THREADS) * 4u, k_end); //@ t
        }
        for (var h = 0u; h < TILE_K; h += SIZE) {
            let y_j = fragment_b(B_START + h * ROW_B + n1 + u_j * SIZE, ROW_B); //@ j
            //@ for i
            let x_i = fragment_a((m1 + u_i * SIZE) * ROW_A + h, ROW_A);
            c_i_j = coopMultiplyAdd(x_i, y_j, c_i_j); //@ j
            //@ end
        }
        workgroupBarrier();
    }
    // naga wants the place of a store as a name.
    let at = subgroup * SIZE * SIZE;
    //@ for i j
    coopStoreT(c_i_j, &stage[at], SIZE);
    workgroupBarrier();
    finish_fragment(group.z, m0 + m1 + u_i * SIZE, n0 + n1 + u_j * SIZE, at, thread % SUBGROUP);
    workgroupBarrier();
    //@ end
}
