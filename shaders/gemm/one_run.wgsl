// For loaders of A whose columns all follow each other: nothing is to be found out for some of them at a time.

struct RunA { none: u32 }

fn run_end(k: u32) -> u32 { return 0xffffffffu; }

fn run_a(r: RowsA, k: u32) -> RunA { return RunA(0u); }

fn load_run(r: RowsA, run: RunA, k: u32, k_end: u32) -> mat4x4f { return load_a(r, k, k_end); }
