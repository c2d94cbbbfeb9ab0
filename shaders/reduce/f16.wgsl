// Number i of x, packed as f16 two to a word. `alias X = u32`.
fn read_x(i: u32) -> f32 { return from_half_word(x[i / 2u], i); }
