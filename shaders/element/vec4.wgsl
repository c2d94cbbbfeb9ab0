// Rows whose width is a multiple of four are read in fours: E is vec4f.
alias I = vec4u; // a whole number for each of its numbers
const EACH = 4.0; // numbers in an element
fn element(v: vec4f) -> E { return v; }
fn total(e: E) -> f32 { return dot(e, vec4f(1.0)); }
fn largest(e: E) -> f32 { return max(max(e.x, e.y), max(e.z, e.w)); }
