// A thread has all columns of its rows: PARTS is 1, and its sums over columns are complete.

fn share(thread: u32, slot: u32, s: mat4x4f) {}

fn add_parts(thread: u32) {}

fn total(thread: u32, slot: u32, s: mat4x4f) -> mat4x4f { return s; }

/// Keys that a workgroup walks over, when this thread needs those below `end`.
fn end_of(end: u32, all: u32) -> u32 { return min(end, all); }
