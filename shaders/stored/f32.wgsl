// A tensor of f32: its elements lie in memory as they are. `alias S = E`.
fn load(s: S) -> E { return s; }
fn store(e: E) -> S { return e; }
