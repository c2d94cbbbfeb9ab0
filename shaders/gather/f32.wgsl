// Element i of a table of f32. `alias T = E`.
fn read_table(i: u32) -> E { return table[i]; }
