// C = act(A W^T + bias) + residual for few rows of A, for each entry of a batch: a linear layer on one token, or a query against
// a cache of keys. Every weight is used once, so this is as fast as memory is; gemm.wgsl would fill its tile with zeros.
//
//   A (M = R_i, K), W (N, K), C (M, N), bias (N), residual like C; K is a multiple of four. How elements are read: gemm/read_*_vec4,
//   gemm/read_b_f16x4. Sums are f32.
//
// LANES neighbouring threads share a column of C: each walks over every LANES-th vector of the row of W, and one adds up.

struct Params {
    n: u32, k: u32, batch: u32,
    bias: u32, bias_first: u32, residual: u32, // 1 where given; where the bias begins
    a_first: u32, a_row: u32, a_step: u32, a_head: u32, // as in gemm/result.wgsl, without heads
    b_first: u32, b_row: u32, b_step: u32, b_head: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<TA>;
@group(0) @binding(2) var<storage, read> b: array<TB>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;

const ROWS = R_i;
const COLUMNS = 64u / LANES;
var<workgroup> parts: array<f32, 64u * ROWS>; // [column][lane][row]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let tiles = div_up(p.n, COLUMNS);
    let at = flat_group(group, groups);
    let z = at / tiles;
    if z >= p.batch { return; }
    let n0 = at % tiles * COLUMNS;
    let first = p.b_first + z * p.b_step + min(n0 + thread / LANES, p.n - 1u) * p.b_row;
    var sum_i = 0.0; //@ i
    for (var k = thread % LANES * 4u; k < p.k; k += LANES * 4u) {
        let w = read_b(first + k);
        sum_i += dot(read_a(p.a_first + z * p.a_step + u_i * p.a_row + k), w); //@ i
    }
    parts[thread * ROWS + u_i] = sum_i; //@ i
    workgroupBarrier();
    let row = thread % ROWS;
    let column = thread / ROWS;
    if column >= COLUMNS || n0 + column >= p.n { return; }
    var sum = 0.0;
    for (var lane = 0u; lane < LANES; lane++) { sum += parts[(column * LANES + lane) * ROWS + row]; }
    if p.bias != 0u { sum += bias[p.bias_first + n0 + column]; }
    let to = (z * ROWS + row) * p.n + n0 + column;
    sum = act(vec4f(sum)).x;
    if p.residual != 0u { sum += residual[to]; }
    c[to] = sum;
}
