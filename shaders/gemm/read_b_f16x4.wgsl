// Elements i to i + 3 of B, packed as f16 two to a word, i a multiple of four. `alias B = vec2u`.
fn read_b(i: u32) -> vec4f {
    let words = b[i / 4u];
    return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}
