//! Numbers as files hold them, converted to those that are wanted.

use super::blocks::Block;
use anyhow::{Result, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;

/// What a file keeps the numbers of a tensor as, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is called what it is.
pub enum Element {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Some numbers that share a scale, in a GGUF.
    Block(Block),
    /// Another one, which is not read.
    Other(&'static str),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Element::Block(block) => write!(f, "{block:?}"),
            Element::Other(what) => f.write_str(what),
            other => write!(f, "{other:?}"),
        }
    }
}

impl Element {
    /// Numbers that stand together, and the bytes of so many.
    pub fn unit(self) -> [usize; 2] {
        match self {
            Element::F64 | Element::I64 => [1, 8],
            Element::F32 | Element::I32 => [1, 4],
            Element::F16 | Element::BF16 | Element::I16 => [1, 2],
            Element::F8E4M3 | Element::F8E5M2 | Element::I8 | Element::U8 | Element::Bool => [1, 1],
            Element::Block(block) => block.unit(),
            Element::Other(_) => [1, 0],
        }
    }

    /// Bytes of `n` numbers that fill their units.
    pub fn bytes(self, n: usize) -> Option<usize> {
        let [numbers, bytes] = self.unit();
        (n % numbers == 0).then(|| (n / numbers).checked_mul(bytes)).flatten()
    }

    /// Whether it holds fractions.
    pub fn is_float(self) -> bool {
        use Element::*;
        matches!(self, F64 | F32 | F16 | BF16 | F8E4M3 | F8E5M2 | Block(_))
    }
}

/// The values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision.
    F16(Vec<f16>),
}

impl Values {
    /// Floating-point numbers. Halves only become singles where these are wanted.
    ///
    /// # Errors
    /// Elements that are not floating point.
    pub fn read(element: Element, bytes: &[u8], half: bool) -> Result<Values> {
        let numbers = match element {
            Element::F16 if half => {
                return Ok(Values::F16(elements(bytes).map(f16::from_le_bytes).collect()));
            }
            Element::F16 => {
                let halves: Vec<f16> = elements(bytes).map(f16::from_le_bytes).collect();
                halves.to_f32_vec()
            }
            Element::BF16 => elements(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Element::F32 => elements(bytes).map(f32::from_le_bytes).collect(),
            Element::F64 => elements(bytes).map(|b| f64::from_le_bytes(b) as f32).collect(),
            Element::F8E4M3 => bytes.iter().map(|&b| e4m3(b)).collect(),
            // The upper byte of a half.
            Element::F8E5M2 => bytes.iter().map(|&b| f16::from_le_bytes([0, b]).to_f32()).collect(),
            Element::Block(block) => block.decode(bytes),
            other => bail!("holds {other}, expected F32, F16, BF16 or F64"),
        };
        Ok(Values::of(numbers, half))
    }

    /// These numbers, rounded to half precision if it is wanted.
    pub fn of(values: Vec<f32>, half: bool) -> Values {
        match half {
            true => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(&values);
                Values::F16(halves)
            }
            false => Values::F32(values),
        }
    }

    /// Those at `places`, in this order.
    pub fn at(&self, places: &[usize]) -> Values {
        match self {
            Values::F32(v) => Values::F32(places.iter().map(|&i| v[i]).collect()),
            Values::F16(v) => Values::F16(places.iter().map(|&i| v[i]).collect()),
        }
    }

    /// Place and value of the first number that is not finite.
    pub fn not_finite(&self) -> Option<(usize, f32)> {
        match self {
            Values::F32(v) => v.iter().position(|v| !v.is_finite()).map(|i| (i, v[i])),
            Values::F16(v) => v.iter().position(|v| !v.is_finite()).map(|i| (i, v[i].to_f32())),
        }
    }

    /// The numbers of a rank-4 tensor with its second dimension moved to the end: OIHW becomes OHWI.
    pub fn channels_last(self, shape: [usize; 4]) -> Values {
        match self {
            Values::F32(v) => Values::F32(super::nchw_to_nhwc(&v, shape)),
            Values::F16(v) => Values::F16(super::nchw_to_nhwc(&v, shape)),
        }
    }

    /// As bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::F16(v) => bytemuck::cast_slice(v),
        }
    }
}

/// `bytes` as elements of N bytes each.
pub fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// A number of 8 bits with 4 of exponent, which has no infinity (Micikevicius et al. 2022, "FP8 formats for deep learning").
fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7) / 8.0);
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * 2f32.powi(-6),
        _ => (1.0 + fraction) * 2f32.powi(exponent - 7),
    };
    if bits >> 7 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_type_become_what_is_wanted() {
        let numbers = [0.5f32, -2.0, 1.0, 65504.0];
        let f16s: Vec<u8> = numbers.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let bf16s: Vec<u8> =
            [0.5f32, -2.0, 1.0].iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        let f64s: Vec<u8> = numbers.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
        let halves = Values::F16(numbers.map(f16::from_f32).to_vec());
        assert_eq!(Values::read(Element::F16, &f16s, true).unwrap(), halves);
        assert_eq!(Values::read(Element::F16, &f16s, false).unwrap(), Values::F32(numbers.to_vec()));
        assert_eq!(Values::read(Element::F64, &f64s, true).unwrap(), halves);
        assert_eq!(Values::read(Element::BF16, &bf16s, false).unwrap(), Values::F32(numbers[..3].to_vec()));
        assert!(Values::read(Element::I32, &f16s, false).is_err());
        assert_eq!(halves.not_finite(), None);
        let broken = Values::of(vec![1.0, f32::NAN], true);
        assert!(broken.not_finite().is_some_and(|(i, v)| i == 1 && v.is_nan()));
        assert_eq!(Values::of(vec![1.0; 3], true).bytes().len(), 6);
        // Two outputs, two inputs, 1 x 2 pixels.
        let oihw = Values::F32((0..8).map(|i| i as f32).collect());
        let ohwi = Values::F32(vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(oihw.channels_last([2, 2, 1, 2]), ohwi);
    }

    #[test]
    fn eight_bits_are_read_by_the_tables_of_their_paper() {
        let read = |element, bytes: &[u8]| match Values::read(element, bytes, false).unwrap() {
            Values::F32(values) => values,
            Values::F16(_) => unreachable!(),
        };
        // Largest, smallest normal, largest and smallest subnormal, minus one.
        let e4m3 = read(Element::F8E4M3, &[0x7e, 0x08, 0x07, 0x01, 0xb8, 0x00, 0x7f]);
        assert_eq!(e4m3[..6], [448.0, 0.015625, 0.013671875, 0.001953125, -1.0, 0.0]);
        assert!(e4m3[6].is_nan());
        let e5m2 = read(Element::F8E5M2, &[0x7b, 0x04, 0x01, 0xbc]);
        assert_eq!(e5m2, [57344.0, 6.1035156e-5, 1.5258789e-5, -1.0]);
    }
}
