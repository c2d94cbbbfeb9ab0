// PARTS neighbouring threads have a share of the columns of the same rows each: sums over columns go through workgroup memory,
// where every thread adds up a few numbers of its neighbours, always in the same order.

var<workgroup> partial: array<vec4f, 4u * SLOTS * THREADS>;
var<workgroup> totals: array<vec4f, 4u * SLOTS * ITEMS>;

fn share(thread: u32, slot: u32, s: mat4x4f) {
    let at = 4u * (slot + SLOTS * thread);
    partial[at] = s[0];
    partial[at + 1u] = s[1];
    partial[at + 2u] = s[2];
    partial[at + 3u] = s[3];
}

fn add_parts(thread: u32) {
    workgroupBarrier();
    let first = thread / PARTS * PARTS;
    for (var i = thread % PARTS; i < 4u * SLOTS; i += PARTS) {
        var sum = vec4f();
        for (var t = first; t < first + PARTS; t++) { sum += partial[4u * SLOTS * t + i]; }
        totals[4u * SLOTS * (thread / PARTS) + i] = sum;
    }
    workgroupBarrier();
}

fn total(thread: u32, slot: u32, s: mat4x4f) -> mat4x4f {
    let at = 4u * (slot + SLOTS * (thread / PARTS));
    return mat4x4f(totals[at], totals[at + 1u], totals[at + 2u], totals[at + 3u]);
}

/// Keys that a workgroup walks over: all, since its threads wait for one another.
fn end_of(end: u32, all: u32) -> u32 { return all; }
