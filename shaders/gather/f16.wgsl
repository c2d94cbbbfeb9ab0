// Number i of a table of f16, packed two to a word. `alias T = u32`.
fn read_table(i: u32) -> E { return E(unpack2x16float(table[i / 2u])[i % 2u]); }
