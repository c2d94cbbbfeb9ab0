// A tensor of f16, four numbers to an element, packed two to a word. `alias S = vec2u`, `alias E = vec4f`.
fn load(s: S) -> E { return from_half(s); }
fn store(e: E) -> S { return to_half(e); }
