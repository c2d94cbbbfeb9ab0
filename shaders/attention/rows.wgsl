// What the attention kernels share: q, k and v, where the rows of a head lie, which keys a query sees, and small things about 4x4
// blocks.
//
// q, y (B, Tq, H, D); k, v (B, Tk, Hk, D); head h of q goes with head h / (H / Hk) of k and v. q, k and v may be columns of wider tensors:
// the first is `first`, and `row` are from one token to the next. All is counted in vectors of four: D is a multiple of four (the host
// pads), `width` is D / 4. q, k, v and y are f32 or f16 (a part in stored/).

struct Params {
    batch: u32, tq: u32, tk: u32, heads: u32, kv_heads: u32, width: u32, causal: u32, scale: f32,
    q_first: u32, q_row: u32, k_first: u32, k_row: u32, v_first: u32, v_row: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<S>;
@group(0) @binding(2) var<storage, read> k: array<S>;
@group(0) @binding(3) var<storage, read> v: array<S>;

const BLOCKS = R_i; // of four rows each, that a thread holds
const ITEMS = THREADS / PARTS; // in a workgroup: PARTS threads share the rows of an item, with R_d of their columns per thread
const LOG2_E = 1.4426950408889634;
const LOWEST = -3e38;

/// The n rows of one head: row r starts at at + r step.
struct Rows { at: u32, step: u32, n: u32 }

fn query_rows(b: u32, h: u32) -> Rows { return Rows(p.q_first + b * p.tq * p.q_row + h * p.width, p.q_row, p.tq); }

fn key_rows(b: u32, h: u32) -> Rows { return Rows(p.k_first + b * p.tk * p.k_row + h * p.width, p.k_row, p.tk); }

fn value_rows(b: u32, h: u32) -> Rows { return Rows(p.v_first + b * p.tk * p.v_row + h * p.width, p.v_row, p.tk); }

fn result_rows(b: u32, h: u32) -> Rows { return Rows((b * p.tq * p.heads + h) * p.width, p.heads * p.width, p.tq); }

/// Where a row is read; behind the end it is the last one again.
fn place(m: Rows, row: u32, column: u32) -> u32 { return m.at + min(row, m.n - 1u) * m.step + column; }

/// Does this column exist? Always, where the threads' columns add up to just the width.
fn exists(column: u32) -> bool { return FULL == 1u || column < p.width; }

/// Four rows (queries or keys) of vectors; columns that do not exist are zero.
fn q_block(m: Rows, row: u32, c: u32) -> mat4x4f {
    if !exists(c) { return mat4x4f(); }
    return mat4x4f(load(q[place(m, row, c)]), load(q[place(m, row + 1u, c)]), load(q[place(m, row + 2u, c)]), load(q[place(m, row + 3u, c)]));
}

fn k_block(m: Rows, row: u32, c: u32) -> mat4x4f {
    if !exists(c) { return mat4x4f(); }
    return mat4x4f(load(k[place(m, row, c)]), load(k[place(m, row + 1u, c)]), load(k[place(m, row + 2u, c)]), load(k[place(m, row + 3u, c)]));
}

fn v_block(m: Rows, row: u32, c: u32) -> mat4x4f {
    if !exists(c) { return mat4x4f(); }
    return mat4x4f(load(v[place(m, row, c)]), load(v[place(m, row + 1u, c)]), load(v[place(m, row + 2u, c)]), load(v[place(m, row + 3u, c)]));
}

/// The head of a work item, and the first of its 4 BLOCKS rows.
struct Item { head: u32, row: u32 }

/// Work item i of `heads` heads of n rows. Surplus items get a row past the end, which is never written.
fn item_of(i: u32, n: u32, heads: u32) -> Item {
    let per_head = div_up(n, 4u * BLOCKS);
    let head = min(i / per_head, heads - 1u);
    return Item(head, (i - head * per_head) * 4u * BLOCKS);
}

/// Numbers of keys that the four queries from `row` on may see.
fn limits(row: u32) -> vec4u {
    return select(vec4u(p.tk), min(vec4u(p.tk), row + vec4u(1u, 2u, 3u, 4u)), p.causal == 1u);
}

fn max4(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }

fn sum4(v: vec4f) -> f32 { return (v.x + v.y) + (v.z + v.w); }

fn max_of_columns(s: mat4x4f) -> vec4f { return vec4f(max4(s[0]), max4(s[1]), max4(s[2]), max4(s[3])); }

fn sum_of_columns(s: mat4x4f) -> vec4f { return vec4f(sum4(s[0]), sum4(s[1]), sum4(s[2]), sum4(s[3])); }

fn scale_columns(s: mat4x4f, f: vec4f) -> mat4x4f { return mat4x4f(s[0] * f.x, s[1] * f.y, s[2] * f.z, s[3] * f.w); }

/// exp2(s - m), one m for each column.
fn weights(s: mat4x4f, m: vec4f) -> mat4x4f {
    return mat4x4f(exp2(s[0] - m.x), exp2(s[1] - m.y), exp2(s[2] - m.z), exp2(s[3] - m.w));
}

/// Scores of four queries (columns) for the keys from `key` on; the lowest number where a query may not look.
fn hidden(s: mat4x4f, key: u32, limit: vec4u) -> mat4x4f {
    let keys = key + vec4u(0u, 1u, 2u, 3u);
    let low = vec4f(LOWEST);
    return mat4x4f(
        select(low, s[0], keys < limit.xxxx), select(low, s[1], keys < limit.yyyy),
        select(low, s[2], keys < limit.zzzz), select(low, s[3], keys < limit.wwww),
    );
}
