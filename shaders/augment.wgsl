// Pictures as a network is shown them: crop, Pillow's antialiased bilinear resize, flip, torchvision's colour jitter, grey, normalise.
//   resize: y = the crop at s x s pixels, and the colour operations before a contrast; a pixel R + 256 G + 65536 B
//   mean:   y = mean over an image's pixels of L = (19595 R + 38470 G + 7471 B) / 65536, rounded: what contrast moves away from
//   finish: y = table[v][c] of the operations from the contrast on, then grey; the fourth channel is table[v].w
// Integers throughout, in Pillow's roundings, so that every device gives the bits of data::augment::View::show.
// pictures u32: data::packed::pack; packed (n, s, s) u32; mean (n) u32; table (256) vec4f; y (n, s, s, 4) f32. No backward: nothing
// flows to pixels. n pixels in all, s pixels in an image.

struct Params { n: u32, size: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pictures: array<u32>;
@group(0) @binding(2) var<storage, read_write> resized: array<u32>;

// The words of an image's header (HEADER, PIXELS, ..) and the kinds of colour operations (CONTRAST, ..) are data::packed's.

fn channels(pixel: u32) -> vec3i { return vec3i(vec3u(pixel, pixel >> 8u, pixel >> 16u) & vec3u(255u)); }

/// A sum with weights of 22 bits, rounded.
fn rounded(sum: vec3i) -> vec3i { return clamp((sum + (1 << 21u)) >> vec3u(22u), vec3i(0), vec3i(255)); }

/// Pillow's L.
fn grey(v: vec3i) -> i32 { return (19595 * v.r + 38470 * v.g + 7471 * v.b + 32768) >> 16u; }

/// Pillow's blend: from `base` to v and beyond by a factor in 4096ths, clipped, truncated.
fn blend(base: i32, v: vec3i, factor: u32) -> vec3i {
    return clamp(4096 * base + i32(factor) * (v - base), vec3i(0), vec3i(255 * 4096)) >> vec3u(12u);
}

// Pillow computes a hue in f32. Where 255 of its turn is a whole number, these (a bit each) come out below it.
const BELOW = array<u32, 8>(0xfffffffeu, 0x00000000u, 0x11000000u, 0x00000111u, 0x222aaaaau, 0x23232222u, 0x00022222u, 0x00000000u);

/// Pillow's 8-bit HSV.
fn to_hsv(v: vec3i) -> vec3u {
    let most = max(max(v.r, v.g), v.b);
    let range = most - min(min(v.r, v.g), v.b);
    if range == 0 { return vec3u(0u, 0u, u32(most)); }
    let away = vec3i(most) - v;
    // Sixths of a turn, times the range.
    var h = select(4 * range + away.g - away.r, 2 * range + away.r - away.b, away.g == 0);
    h = select(h, away.b - away.g, away.r == 0);
    h = select(h, h + 6 * range, h < 0);
    let whole = quotient(u32(255 * h), u32(6 * range));
    var below = BELOW;
    let exact = whole * u32(6 * range) == u32(255 * h);
    let hue = whole - select(0u, (below[whole / 32u] >> (whole % 32u)) & 1u, exact);
    return vec3u(hue, quotient(u32(255 * range), u32(most)), u32(most));
}

fn to_rgb(hsv: vec3u) -> vec3i {
    let sixth = quotient(hsv.x * 6u, 255u);
    let f = hsv.x * 6u - sixth * 255u;
    // v (1 - share), shares in 65025ths, rounded.
    let shares = 65025u - hsv.y * vec3u(255u, f, 255u - f);
    let doubled = 2u * hsv.z * shares + 65025u;
    let pqt = vec3i(vec3u(quotient(doubled.x, 130050u), quotient(doubled.y, 130050u), quotient(doubled.z, 130050u)));
    let v = i32(hsv.z);
    switch sixth % 6u {
        case 0u: { return vec3i(v, pqt.z, pqt.x); }
        case 1u: { return vec3i(pqt.y, v, pqt.x); }
        case 2u: { return vec3i(pqt.x, v, pqt.z); }
        case 3u: { return vec3i(pqt.x, pqt.y, v); }
        case 4u: { return vec3i(pqt.z, pqt.x, v); }
        default: { return vec3i(v, pqt.x, pqt.y); }
    }
}

/// The colour operations from `start` to before `end` of a picture with the mean grey `mean`. There is one hue at most; it stands
/// outside of the loops, as software adapters execute both sides of a branch.
fn colours(pixel: vec3i, header: u32, start: u32, end: u32, mean: i32) -> vec3i {
    var v = pixel;
    var op = start;
    for (; op < end && pictures[header + COLOURS + op] >> 16u != HUE; op++) { v = blended(v, pictures[header + COLOURS + op], mean); }
    let shift = select(0u, pictures[header + COLOURS + op] & 0xffu, op < end);
    let hsv = to_hsv(v);
    v = select(v, to_rgb(vec3u((hsv.x + shift) & 255u, hsv.yz)), op < end);
    for (op++; op < end; op++) { v = blended(v, pictures[header + COLOURS + op], mean); }
    return v;
}

/// One operation that is no hue: its number in the upper half, its factor in the lower.
fn blended(v: vec3i, op: u32, mean: i32) -> vec3i {
    let kind = op >> 16u;
    let base = select(select(0, mean, kind == CONTRAST), grey(v), kind == SATURATION);
    return select(v, blend(base, v, op & 0xffffu), kind != 0u);
}

/// The place of the first operation that is a contrast; 4 without one.
fn contrast(header: u32) -> u32 {
    var i = 0u;
    while i < 4u && pictures[header + COLOURS + i] >> 16u != CONTRAST { i++; }
    return i;
}

// ---- resize

@compute @workgroup_size(64)
fn resize(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let row = i / p.size;
    let image = row / p.size;
    let header = image * HEADER;
    let width = pictures[header + COLUMN_WEIGHTS];
    let height = pictures[header + ROW_WEIGHTS];
    let columns = pictures[header + COLUMNS] + (i - row * p.size) * (1u + width);
    let rows = pictures[header + ROWS] + (row - image * p.size) * (1u + height);
    let start = pictures[header + PIXELS] + pictures[columns];
    var sum = vec3i();
    for (var r = 0u; r < height; r++) {
        let line = start + (pictures[rows] + r) * pictures[header + STRIDE];
        var along = vec3i();
        for (var k = 0u; k < width; k++) {
            along += i32(pictures[columns + 1u + k]) * channels(pictures[line + k]);
        }
        sum += i32(pictures[rows + 1u + r]) * rounded(along);
    }
    let v = colours(rounded(sum), header, 0u, contrast(header), 0);
    resized[i] = u32(v.r | (v.g << 8u) | (v.b << 16u));
}

// ---- mean

@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> means: array<u32>;

var<workgroup> sums: array<u32, 64>;

@compute @workgroup_size(64)
fn mean(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let at = flat_group(group, groups);
    let count = p.size * p.size;
    if at * count >= p.n { return; }
    var sum = 0u;
    for (var i = thread; i < count; i += 64u) { sum += u32(grey(channels(packed[at * count + i]))); }
    sums[thread] = sum;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if thread < half { sums[thread] += sums[thread + half]; }
        workgroupBarrier();
    }
    let whole = sums[0] / count;
    if thread == 0u { means[at] = whole + u32(2u * (sums[0] - whole * count) >= count); }
}

// ---- finish; it reads `pictures` too

@group(0) @binding(2) var<storage, read> made: array<u32>;
@group(0) @binding(3) var<storage, read> mean_of: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn finish(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) thread: u32) {
    let i = flat_group(group, groups) * 64u + thread;
    if i >= p.n { return; }
    let image = i / (p.size * p.size);
    let header = image * HEADER;
    let coloured = colours(channels(made[i]), header, contrast(header), 4u, i32(mean_of[image]));
    let v = select(coloured, vec3i(grey(coloured)), pictures[header + GREY] == 1u);
    y[i] = vec4f(table[v.r].r, table[v.g].g, table[v.b].b, table[0].w);
}
