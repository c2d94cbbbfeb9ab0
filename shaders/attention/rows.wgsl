// How the rows of a head are given to threads, which keys a query sees, and small things about 4x4 blocks. Where rows lie:
// attention/heads.wgsl.

const BLOCKS = R_i; // of four rows each, that a thread holds
const ITEMS = THREADS / PARTS; // in a workgroup: PARTS threads share the rows of an item, with R_d of their columns per thread
const LOG2_E = 1.4426950408889634;
const LOWEST = -3e38;

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
