//! The blocks of a GGUF: some numbers each, as small integers with a scale that they share (ggml's `ggml-common.h` and `ggml-quants.c`).

use half::f16;

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types)] // As ggml calls them.
pub enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

/// What the four bits of the `IQ4` kinds stand for.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Block {
    /// Numbers in a block, and its bytes.
    pub fn unit(self) -> [usize; 2] {
        match self {
            Block::Q4_0 => [32, 18],
            Block::Q4_1 => [32, 20],
            Block::Q5_0 => [32, 22],
            Block::Q5_1 => [32, 24],
            Block::Q8_0 => [32, 34],
            Block::Q2_K => [256, 84],
            Block::Q3_K => [256, 110],
            Block::Q4_K => [256, 144],
            Block::Q5_K => [256, 176],
            Block::Q6_K => [256, 210],
            Block::IQ4_NL => [32, 18],
            Block::IQ4_XS => [256, 136],
        }
    }

    /// The numbers of whole blocks.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let [numbers, size] = self.unit();
        let mut out = vec![0.0; bytes.len() / size * numbers];
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(numbers)) {
            match self {
                Block::Q4_0 => nibbles(&block[2..], out, |q| scale(block, 0) * (f32::from(q) - 8.0)),
                Block::Q4_1 => {
                    nibbles(&block[4..], out, |q| scale(block, 0) * f32::from(q) + scale(block, 2));
                }
                Block::Q5_0 => five(block, 2, out, |q| scale(block, 0) * (f32::from(q) - 16.0)),
                Block::Q5_1 => five(block, 4, out, |q| scale(block, 0) * f32::from(q) + scale(block, 2)),
                Block::Q8_0 => {
                    let d = scale(block, 0);
                    out.iter_mut().zip(&block[2..]).for_each(|(y, &q)| *y = d * f32::from(q as i8));
                }
                Block::Q2_K => q2_k(block, out),
                Block::Q3_K => q3_k(block, out),
                Block::Q4_K => q45_k(block, out, None, &block[16..]),
                Block::Q5_K => q45_k(block, out, Some(&block[16..48]), &block[48..]),
                Block::Q6_K => q6_k(block, out),
                Block::IQ4_NL => {
                    nibbles(&block[2..], out, |q| scale(block, 0) * f32::from(IQ4[usize::from(q)]));
                }
                Block::IQ4_XS => iq4_xs(block, out),
            }
        }
        out
    }
}

/// The f16 at this byte.
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Numbers of four bits: the lower halves of all bytes, then the upper ones.
fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((&q, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (number(q & 15), number(q >> 4));
    }
}

/// Numbers of five bits: a word of fifth bits at byte `at`, then the nibbles of the rest.
fn five(block: &[u8], at: usize, out: &mut [f32], number: impl Fn(u8) -> f32) {
    let fifth = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let bit = |i: usize| ((fifth >> i & 1) << 4) as u8;
    for (i, &q) in block[at + 4..].iter().enumerate() {
        (out[i], out[i + 16]) = (number(q & 15 | bit(i)), number(q >> 4 | bit(i + 16)));
    }
}

/// 16 scales and least values of 4 bits, 256 numbers of 2.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (d, least) = (scale(block, 80), scale(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (s, qs, shift) = (block[group], two_bits(group), 2 * (group / 2 % 4));
        for (y, &q) in out.iter_mut().zip(&block[16 + qs..]) {
            *y = d * f32::from(s & 15) * f32::from(q >> shift & 3) - least * f32::from(s >> 4);
        }
    }
}

/// Where 16 numbers of two bits begin: a half of 128 numbers has 32 bytes, whose pairs of bits are taken in turn.
fn two_bits(group: usize) -> usize {
    32 * (group / 8) + 16 * (group % 2)
}

/// 16 scales of 6 bits, 256 numbers of 2 bits and a third elsewhere.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (d, packed) = (scale(block, 108), &block[96..108]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        // Four bits of the scale in one place, two in another.
        let (byte, quarter) = (group % 4, group / 4);
        let low = packed[byte + 4 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
        let high = packed[8 + byte] >> (2 * quarter) & 3;
        let s = d * (f32::from(low | high << 4) - 32.0);
        let (qs, shift, mask) = (two_bits(group), 2 * (group / 2 % 4), 1u8 << (group / 2));
        for (i, y) in out.iter_mut().enumerate() {
            let third = if block[16 * (group % 2) + i] & mask == 0 { 4.0 } else { 0.0 };
            *y = s * (f32::from(block[32 + qs + i] >> shift & 3) - third);
        }
    }
}

/// 8 scales and least values of 6 bits, 256 numbers of 4 bits and, in Q5_K, a fifth elsewhere.
fn q45_k(block: &[u8], out: &mut [f32], fifth: Option<&[u8]>, qs: &[u8]) {
    let (d, least, s) = (scale(block, 0), scale(block, 2), &block[4..16]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (sc, mn) = match j {
            0..4 => (s[j] & 63, s[j + 4] & 63),
            _ => (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4),
        };
        let (d, least) = (d * f32::from(sc), least * f32::from(mn));
        for (i, y) in out.iter_mut().enumerate() {
            let q = qs[32 * (j / 2) + i] >> (4 * (j % 2)) & 15;
            let bit = fifth.map_or(0, |bits| (bits[i] >> j & 1) << 4);
            *y = d * f32::from(q | bit) - least;
        }
    }
}

/// 16 scales of 8 bits, 256 numbers of 4 bits and two elsewhere.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = scale(block, 208);
    for (i, y) in out.iter_mut().enumerate() {
        // Of a half's 128 numbers, each quarter takes a nibble of 32 bytes and two bits of 32 others.
        let (half, quarter, l) = (i / 128, i / 32 % 4, i % 32);
        let low = block[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + 32 * half + l] >> (2 * quarter) & 3;
        let s = block[192 + i / 16] as i8;
        *y = d * f32::from(s) * (f32::from(low | high << 4) - 32.0);
    }
}

/// 8 scales of 6 bits, 256 numbers of 4 bits that stand for those of a table.
fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let (d, high) = (scale(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
        let s = d * (f32::from(u16::from(low) | (high >> (2 * j) & 3) << 4) - 32.0);
        nibbles(&block[8 + 16 * j..][..16], out, |q| s * f32::from(IQ4[usize::from(q)]));
    }
}
