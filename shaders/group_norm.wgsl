// The large passes of group normalisation (Wu and He 2018) and batch normalisation (Ioffe and Szegedy 2015), whose statistics
// group_stats makes of sums over columns; and the gradients of the weights of all normalisations.
//   moments:        mean and sum of squared differences from it, of each column of each piece (Welford's method)
//   apply:          y = act(z),  z = x^ w + b,  x^ = (x - mean) / sqrt(var + eps)
//   sums:           dz and dz x^ added up over each column of each piece, where dz = dy act'(z)
//   apply_backward: dx = (dz w - m1 - x^ m2) / sqrt(var + eps); m1, m2: means of dz w and dz w x^ over the group, from group_stats,
//                   or zeros where the statistics are constants
//   row_sums:       dy and dy x^ added up likewise, for the layer and RMS norms, where rows have statistics (mean, 1 / std)
// All backward kernels recompute z and x^ from x.
//
// x, y, dy, dx (n, l, c), f32 or f16 (a part in stored/); weight, bias (c); stats: mean and var, repeated for each channel, (n, 2, c);
// means: m1 and m2, (n, 2, c); sums (n, pieces, c). A thread has `piece` rows of one column, and so reads what belongs to the column once.
// With JOINED = 1 the first two passes read two tensors that are the columns of x side by side, `left` of them in the first.

struct Params { n: u32, l: u32, c: u32, piece: u32, left: u32, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<S>;
@group(0) @binding(2) var<storage, read> right: array<S>;

fn x_at(row: u32, column: u32) -> E {
    if JOINED == 0u { return load(x[row * p.c + column]); }
    if column < p.left { return load(x[row * p.left + column]); }
    return load(right[row * (p.c - p.left) + column - p.left]);
}

/// The work of a thread: this column of the rows from `row` to below `end`.
struct Piece { at: u32, n: u32, column: u32, row: u32, end: u32 }

fn piece_of(group: u32, thread: u32) -> Piece {
    let at = group * 64u + thread;
    let pieces = div_up(p.l, p.piece);
    let n = at / p.c / pieces;
    let first = at / p.c % pieces * p.piece;
    let row = n * p.l + first;
    let end = select(0u, row + min(p.piece, p.l - first), n < p.n);
    return Piece(at, n, at % p.c, row, end);
}

// ---- moments

@group(0) @binding(3) var<storage, read_write> mean_out: array<E>;
@group(0) @binding(4) var<storage, read_write> squares_out: array<E>;

@compute @workgroup_size(64)
fn moments(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let t = piece_of(flat_group(group, groups), thread);
    if t.end == 0u { return; }
    var count = 0.0;
    var mean = E();
    var squares = E();
    for (var row = t.row; row < t.end; row++) {
        let v = x_at(row, t.column);
        let d = v - mean;
        count += 1.0;
        mean += d / count;
        squares += d * (v - mean);
    }
    mean_out[t.at] = mean;
    squares_out[t.at] = squares;
}

// ---- apply; sums and apply_backward read stats, weight and bias too

@group(0) @binding(3) var<storage, read> stats: array<E>;
@group(0) @binding(4) var<storage, read> weight: array<E>;
@group(0) @binding(5) var<storage, read> bias: array<E>;
@group(0) @binding(6) var<storage, read_write> y: array<S>;

/// What a column is normalised with.
struct Column { mean: E, r: E, weight: E, bias: E }

fn column_of(t: Piece) -> Column {
    let at = 2u * t.n * p.c + t.column;
    return Column(stats[at], inverseSqrt(stats[at + p.c] + p.eps), weight[t.column], bias[t.column]);
}

@compute @workgroup_size(64)
fn apply(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let t = piece_of(flat_group(group, groups), thread);
    if t.end == 0u { return; }
    let k = column_of(t);
    for (var row = t.row; row < t.end; row++) {
        y[row * p.c + t.column] = store(element(act(vec4f((x_at(row, t.column) - k.mean) * k.r * k.weight + k.bias))));
    }
}

// ---- sums; apply_backward reads dy too

@group(0) @binding(6) var<storage, read> dy: array<S>;
@group(0) @binding(7) var<storage, read_write> sum_out: array<E>;
@group(0) @binding(8) var<storage, read_write> dot_out: array<E>;

@compute @workgroup_size(64)
fn sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let t = piece_of(flat_group(group, groups), thread);
    if t.end == 0u { return; }
    let k = column_of(t);
    var sum = E();
    var dot = E();
    for (var row = t.row; row < t.end; row++) {
        let i = row * p.c + t.column;
        let normal = (load(x[i]) - k.mean) * k.r;
        let dz = load(dy[i]) * element(dact(vec4f(normal * k.weight + k.bias)));
        sum += dz;
        dot += dz * normal;
    }
    sum_out[t.at] = sum;
    dot_out[t.at] = dot;
}

// ---- apply_backward

@group(0) @binding(7) var<storage, read> means: array<E>;
@group(0) @binding(8) var<storage, read_write> dx: array<S>;

@compute @workgroup_size(64)
fn apply_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let t = piece_of(flat_group(group, groups), thread);
    if t.end == 0u { return; }
    let k = column_of(t);
    let at = 2u * t.n * p.c + t.column;
    let m1 = means[at];
    let m2 = means[at + p.c];
    for (var row = t.row; row < t.end; row++) {
        let i = row * p.c + t.column;
        let normal = (load(x[i]) - k.mean) * k.r;
        let dz = load(dy[i]) * element(dact(vec4f(normal * k.weight + k.bias)));
        dx[i] = store(k.r * (dz * k.weight - m1 - normal * m2));
    }
}

// ---- row_sums

@group(0) @binding(3) var<storage, read> row_dy: array<S>;
@group(0) @binding(4) var<storage, read> row_stats: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> row_sum_out: array<E>;
@group(0) @binding(6) var<storage, read_write> row_dot_out: array<E>;

@compute @workgroup_size(64)
fn row_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let t = piece_of(flat_group(group, groups), thread);
    if t.end == 0u { return; }
    var sum = E();
    var dot = E();
    for (var row = t.row; row < t.end; row++) {
        let i = row * p.c + t.column;
        let s = row_stats[row];
        let d = load(row_dy[i]);
        sum += d;
        dot += d * (load(x[i]) - s.x) * s.y;
    }
    row_sum_out[t.at] = sum;
    row_dot_out[t.at] = dot;
}
