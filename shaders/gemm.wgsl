// C = act(A B + bias) + residual, for each entry z of a batch.
//
// The core of every matrix product and convolution on a GPU, and on CPU drivers that are fastest with it; gemm_direct.wgsl is the other.
// Shapes, loaders and the pieces of K: gemm/result.wgsl.
//
// A workgroup makes a TILE_M x TILE_N tile of C, walking over K in slices of TILE_K that it keeps in workgroup memory. A thread
// holds R_i x R_j named 4x4 accumulators. On matrices of four columns `c += b * a` is a 4x4x4 block product: the columns of b are four
// rows of the slice of B, the columns of a four rows of A, the columns of c four rows of C.

const THREADS = WG_M * WG_N;
const TILE_M = WG_M * 4u * R_i;
const TILE_N = WG_N * 4u * R_j;
const K4 = TILE_K / 4u;
const N4 = TILE_N / 4u;
const A_BLOCKS = TILE_M * TILE_K / 16u;
const B_BLOCKS = TILE_N * TILE_K / 16u;

var<workgroup> a_tile: array<vec4f, TILE_M * K4>; // [row][k / 4], a vector along k
var<workgroup> b_tile: array<vec4f, TILE_K * N4>; // [k][column / 4], a vector along the columns

fn put_a(q: u32, block: mat4x4f) {
    let at = (q / K4) * 4u * K4 + q % K4;
    a_tile[at] = block[0];
    a_tile[at + K4] = block[1];
    a_tile[at + 2u * K4] = block[2];
    a_tile[at + 3u * K4] = block[3];
}

fn get_a(m4: u32, k4: u32) -> mat4x4f {
    let at = m4 * 4u * K4 + k4;
    return mat4x4f(a_tile[at], a_tile[at + K4], a_tile[at + 2u * K4], a_tile[at + 3u * K4]);
}

// Threads fill B's tile so that neighbours read neighbouring memory: along K where B is stored (N, K), else along N.
fn k4_of_b(q: u32) -> u32 { return select(q / N4, q % K4, B_ALONG_K == 1u); }
fn n4_of_b(q: u32) -> u32 { return select(q % N4, q / K4, B_ALONG_K == 1u); }

fn put_b(q: u32, block: mat4x4f) {
    let at = k4_of_b(q) * 4u * N4 + n4_of_b(q);
    b_tile[at] = block[0];
    b_tile[at + N4] = block[1];
    b_tile[at + 2u * N4] = block[2];
    b_tile[at + 3u * N4] = block[3];
}

fn get_b(k4: u32, n4: u32) -> mat4x4f {
    let at = k4 * 4u * N4 + n4;
    return mat4x4f(b_tile[at], b_tile[at + N4], b_tile[at + 2u * N4], b_tile[at + 3u * N4]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let z = group.z / p.splits;
    let tile = p.first + flat_group(group, groups);
    let m0 = (tile / div_up(p.n, TILE_N)) * TILE_M;
    let n0 = (tile % div_up(p.n, TILE_N)) * TILE_N;
    if m0 >= p.m { return; }
    let m4 = select(thread / WG_N, 0u, WG_M == 1u);
    let n4 = thread % WG_N;

    let piece = div_up(div_up(k_size(z), p.splits), TILE_K) * TILE_K;
    let k_begin = (group.z % p.splits) * piece;
    let k_end = min(k_begin + piece, k_size(z));

    let rows_s = prepare_a(z, m0 + (thread + u_s * THREADS) / K4 * 4u); //@ s
    let cols_t = prepare_b(z, n0 + n4_of_b(thread + u_t * THREADS) * 4u); //@ t
    var c_i_j = start(n0 + (n4 + u_j * WG_N) * 4u); //@ i j

    for (var k = k_begin; k < k_end; k += TILE_K) {
        if thread + u_s * THREADS < A_BLOCKS { put_a(thread + u_s * THREADS, load_a(rows_s, k + (thread + u_s * THREADS) % K4 * 4u, k_end)); } //@ s
        if thread + u_t * THREADS < B_BLOCKS { put_b(thread + u_t * THREADS, load_b(cols_t, k + k4_of_b(thread + u_t * THREADS) * 4u, k_end)); } //@ t
        workgroupBarrier();
        for (var k4 = 0u; k4 < K4; k4++) {
            let b_j = get_b(k4, n4 + u_j * WG_N); //@ j
            //@ for i
            let a_i = get_a(m4 + u_i * WG_M, k4);
            c_i_j += b_j * a_i; //@ j
            //@ end
        }
        workgroupBarrier();
    }
    finish_block(group.z, m0 + (m4 + u_i * WG_M) * 4u, n0 + (n4 + u_j * WG_N) * 4u, c_i_j); //@ i j
}
