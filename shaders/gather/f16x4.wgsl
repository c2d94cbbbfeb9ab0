// Numbers 4i to 4i + 3 of a table of f16, packed two to a word. `alias T = vec2u`.
fn read_table(i: u32) -> E { return from_half(table[i]); }
