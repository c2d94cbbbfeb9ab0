// Shared by every kernel. The host puts this file in front of it (README.md says how a kernel is put together).
//
// Bindings of every kernel: @group(0) @binding(0) the uniform `p` with this step's numbers (shapes above all), then inputs, then
// outputs. A grid of more than 65,535 workgroups is folded into x and y; `flat_group` undoes it.

// `u_i` in a line that is repeated for every i becomes one of these: the number itself. R_i may be 20 at most.
const u_0 = 0u; const u_1 = 1u; const u_2 = 2u; const u_3 = 3u; const u_4 = 4u; const u_5 = 5u; const u_6 = 6u; const u_7 = 7u;
const u_8 = 8u; const u_9 = 9u; const u_10 = 10u; const u_11 = 11u; const u_12 = 12u; const u_13 = 13u; const u_14 = 14u; const u_15 = 15u;
const u_16 = 16u; const u_17 = 17u; const u_18 = 18u; const u_19 = 19u;

/// Linear workgroup number.
fn flat_group(group: vec3u, groups: vec3u) -> u32 { return group.x + group.y * groups.x; }

/// ceil(a / b)
fn div_up(a: u32, b: u32) -> u32 { return (a + b - 1u) / b; }

/// a / b, rounded down, without an integer division: those take hundreds of cycles on software adapters and tens on GPUs. The
/// quotient must be below 2^22.
fn quotient(a: u32, b: u32) -> u32 {
    let q = u32(f32(a) / f32(b));
    let rest = i32(a - q * b);
    return q - u32(rest < 0) + u32(rest >= i32(b));
}

/// The first `count` numbers of v, zeros for the rest; selects, so that what lies behind the end may be anything.
fn below(v: vec4f, count: u32) -> vec4f {
    return select(vec4f(), v, vec4u(0u, 1u, 2u, 3u) < vec4u(count));
}

/// Four numbers of a tensor of f16, packed two to a word.
fn from_half(words: vec2u) -> vec4f { return vec4f(unpack2x16float(words.x), unpack2x16float(words.y)); }

/// Number i of a tensor of f16, given the word i / 2.
fn from_half_word(word: u32, i: u32) -> f32 { return unpack2x16float(word)[i % 2u]; }

/// The reverse of from_half. What is larger than f16 can be becomes its largest number: packing it would give anything.
fn to_half(v: vec4f) -> vec2u {
    let inside = within_half(v);
    return vec2u(pack2x16float(inside.xy), pack2x16float(inside.zw));
}

/// What is larger than f16 can be becomes its largest number.
fn within_half(v: vec4f) -> vec4f {
    let most = 65504.0;
    return select(v, clamp(v, vec4f(-most), vec4f(most)), abs(v) > vec4f(most));
}
