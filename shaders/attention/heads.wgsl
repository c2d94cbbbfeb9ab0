// What all kernels of attention share: q, k and v, and where the rows of a head lie.
//
// q, y (B, Tq, H, D); k, v (B, Tk, Hk, D); head h of q goes with head h / (H / Hk) of k and v. q, k and v may be columns of wider tensors:
// the first is `first`, and `row` are from one token to the next. All is counted in vectors of four: D is a multiple of four (the host
// pads), `width` is D / 4. q, k, v and y are f32 or f16 (a part in stored/).

struct Params {
    batch: u32, tq: u32, tk: u32, heads: u32, kv_heads: u32, width: u32, causal: u32, scale: f32,
    q_first: u32, q_row: u32, k_first: u32, k_row: u32, v_first: u32, v_row: u32,
    first: u32, // workgroup, where they are dispatched in pieces
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<S>;
@group(0) @binding(2) var<storage, read> k: array<S>;
@group(0) @binding(3) var<storage, read> v: array<S>;

/// The n rows of one head: row r starts at at + r step.
struct Rows { at: u32, step: u32, n: u32 }

fn query_rows(b: u32, h: u32) -> Rows { return Rows(p.q_first + b * p.tq * p.q_row + h * p.width, p.q_row, p.tq); }

fn key_rows(b: u32, h: u32) -> Rows { return Rows(p.k_first + b * p.tk * p.k_row + h * p.width, p.k_row, p.tk); }

fn value_rows(b: u32, h: u32) -> Rows { return Rows(p.v_first + b * p.tk * p.v_row + h * p.width, p.v_row, p.tk); }

fn result_rows(b: u32, h: u32) -> Rows { return Rows((b * p.tq * p.heads + h) * p.width, p.heads * p.width, p.tq); }

/// Where a row is read; behind the end it is the last one again.
fn place(m: Rows, row: u32, column: u32) -> u32 { return m.at + min(row, m.n - 1u) * m.step + column; }
