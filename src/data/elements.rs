//! Numbers as files hold them, converted to those that are wanted.

use anyhow::{Result, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// The values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision.
    F16(Vec<f16>),
}

impl Values {
    /// Floating-point numbers, little-endian. Halves only become singles where these are wanted.
    ///
    /// # Errors
    /// Elements that are not floating point.
    pub fn read(dtype: Dtype, bytes: &[u8], half: bool) -> Result<Values> {
        Ok(match (dtype, half) {
            (Dtype::F16, true) => Values::F16(elements(bytes).map(f16::from_le_bytes).collect()),
            (Dtype::F16, false) => {
                let halves: Vec<f16> = elements(bytes).map(f16::from_le_bytes).collect();
                Values::F32(halves.to_f32_vec())
            }
            (Dtype::BF16, _) => {
                Values::of(elements(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(), half)
            }
            (Dtype::F32, _) => Values::of(elements(bytes).map(f32::from_le_bytes).collect(), half),
            (Dtype::F64, _) => {
                Values::of(elements(bytes).map(|b| f64::from_le_bytes(b) as f32).collect(), half)
            }
            (other, _) => bail!("holds {other:?}, expected F32, F16, BF16 or F64"),
        })
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
        assert_eq!(Values::read(Dtype::F16, &f16s, true).unwrap(), halves);
        assert_eq!(Values::read(Dtype::F16, &f16s, false).unwrap(), Values::F32(numbers.to_vec()));
        assert_eq!(Values::read(Dtype::F64, &f64s, true).unwrap(), halves);
        assert_eq!(Values::read(Dtype::BF16, &bf16s, false).unwrap(), Values::F32(numbers[..3].to_vec()));
        assert!(Values::read(Dtype::I32, &f16s, false).is_err());
        assert_eq!(halves.not_finite(), None);
        let broken = Values::of(vec![1.0, f32::NAN], true);
        assert!(broken.not_finite().is_some_and(|(i, v)| i == 1 && v.is_nan()));
        assert_eq!(Values::of(vec![1.0; 3], true).bytes().len(), 6);
        // Two outputs, two inputs, 1 x 2 pixels.
        let oihw = Values::F32((0..8).map(|i| i as f32).collect());
        let ohwi = Values::F32(vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(oihw.channels_last([2, 2, 1, 2]), ohwi);
    }
}
