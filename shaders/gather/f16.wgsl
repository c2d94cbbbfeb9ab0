// Number i of a table of f16, packed two to a word. `alias T = u32`.
fn read_table(i: u32) -> E { return E(from_half_word(table[i / 2u], i)); }
