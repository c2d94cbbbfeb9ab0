// Rows of any width, a number at a time: E is f32.
alias I = u32; // a whole number for each of its numbers
const EACH = 1.0; // numbers in an element
fn element(v: vec4f) -> E { return v.x; }
fn total(e: E) -> f32 { return e; }
fn largest(e: E) -> f32 { return e; }
