// maximum
const START = -3.402823466e38;
fn combine(a: f32, b: f32) -> f32 { return max(a, b); }
