// One workgroup per row: neighbouring threads read neighbouring elements, and a tree in workgroup memory combines what they found.
const LANES = THREADS; // threads that share a row
fn row_of(group: u32, thread: u32) -> u32 { return group; }
fn lane_of(thread: u32) -> u32 { return thread; }

var<workgroup> lanes: array<f32, THREADS>;

/// The sum of v over the threads of a row, for all of them.
fn row_sum(v: f32, thread: u32) -> f32 {
    lanes[thread] = v;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half { lanes[thread] += lanes[thread + half]; }
        workgroupBarrier();
    }
    let sum = lanes[0];
    workgroupBarrier();
    return sum;
}

/// The largest v of the threads of a row, for all of them.
fn row_max(v: f32, thread: u32) -> f32 {
    lanes[thread] = v;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half { lanes[thread] = max(lanes[thread], lanes[thread + half]); }
        workgroupBarrier();
    }
    let largest = lanes[0];
    workgroupBarrier();
    return largest;
}
