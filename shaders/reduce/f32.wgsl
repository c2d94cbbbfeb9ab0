// Number i of x. `alias X = f32`.
fn read_x(i: u32) -> f32 { return x[i]; }
