// Rows of any width, a number at a time: E is f32.
const EACH = 1.0; // numbers in an element
fn element(v: vec4f) -> E { return v.x; }
fn total(e: E) -> f32 { return e; }
fn largest(e: E) -> f32 { return e; }
