//! What a model is compared with: recorded inputs and outputs, the configuration and the weights they belong to.

use crate::core::{DType, Gpu};
use crate::data::checkpoint::Checkpoint;
use crate::data::config::Config;
use crate::data::folder::Folder;
use crate::data::{nchw_to_nhwc, nhwc_to_nchw};
use anyhow::{Result, anyhow, bail};

/// Largest error of a forward pass on f32 weights, relative to the largest reference value.
pub const FORWARD: f64 = 1e-4;
/// Largest error of a forward pass whose matrices and activations are f16.
pub const HALF: f64 = 2e-2;
/// Largest error of a training loss.
pub const TRAINING: f64 = 1e-3;

/// A recorded run of a model.
pub struct Golden {
    /// What it is called: the stem of its file.
    pub name: String,
    /// The device to run on.
    pub gpu: Gpu,
    /// What the model's matrices and activations are kept as.
    pub dtype: DType,
    /// The model's config.json.
    pub config: Config,
    /// Where the model's weights are; None: they are synthetic.
    pub folder: Option<Folder>,
    /// Inputs and reference outputs, in torch's layout.
    pub tensors: Checkpoint,
}

/// Runs a model on the inputs of a golden and compares what comes out.
pub type Runner = fn(&Golden) -> Result<Vec<Comparison>>;

/// How far a result is from its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Name of the reference tensor.
    pub what: String,
    /// Largest difference, relative to the largest absolute reference value; infinite where a number or the count of
    /// numbers is wrong altogether.
    pub error: f64,
    /// What the error may be.
    pub tolerance: f64,
}

impl Comparison {
    /// Compares `got` with `want`.
    pub fn new(what: &str, got: &[f32], want: &[f32], tolerance: f64) -> Comparison {
        let largest = want.iter().fold(1e-12, |m: f64, v| m.max(f64::from(v.abs())));
        let mut error = if got.len() == want.len() { 0.0 } else { f64::INFINITY };
        for (a, b) in got.iter().zip(want) {
            let difference = f64::from(a - b).abs() / largest;
            error = if difference.is_finite() { difference.max(error) } else { f64::INFINITY };
            if error.is_infinite() {
                break;
            }
        }
        Comparison { what: what.to_string(), error, tolerance }
    }

    /// Compares whole numbers: the error is the share that differs.
    pub fn exact(what: &str, got: &[u32], want: &[u32]) -> Comparison {
        let wrong = got.iter().zip(want).filter(|(a, b)| a != b).count();
        let error =
            if got.len() == want.len() { wrong as f64 / got.len().max(1) as f64 } else { f64::INFINITY };
        Comparison { what: what.to_string(), error, tolerance: 0.0 }
    }

    /// Whether the error is within the tolerance.
    pub fn holds(&self) -> bool {
        self.error <= self.tolerance
    }
}

impl Golden {
    /// The model's weights.
    ///
    /// # Errors
    /// A missing or broken file.
    pub fn weights(&self) -> Result<Checkpoint> {
        self.folder.as_ref().map_or_else(|| Ok(Checkpoint::synthetic()), Folder::weights)
    }

    /// Shape and values of a recorded tensor of rank `N`.
    ///
    /// # Errors
    /// No such tensor, or one of another rank.
    pub fn tensor<const N: usize>(&self, name: &str) -> Result<([usize; N], Vec<f32>)> {
        Ok((self.shape(name)?, self.tensors.tensor(name)?.1))
    }

    /// Shape and values of a recorded tensor of whole numbers.
    ///
    /// # Errors
    /// As [`Golden::tensor`].
    pub fn ids<const N: usize>(&self, name: &str) -> Result<([usize; N], Vec<u32>)> {
        Ok((self.shape(name)?, self.tensors.u32s(name)?))
    }

    /// A recorded image (N, C, H, W), turned into (N, H, W, C): that shape, and its values.
    ///
    /// # Errors
    /// As [`Golden::tensor`].
    pub fn image(&self, name: &str) -> Result<([usize; 4], Vec<f32>)> {
        let ([n, c, h, w], data) = self.tensor(name)?;
        Ok(([n, h, w, c], nchw_to_nhwc(&data, [n, c, h, w])))
    }

    /// Compares a forward result, in torch's layout, with the recorded tensor `name`.
    ///
    /// # Errors
    /// No such tensor.
    pub fn compare(&self, name: &str, got: &[f32]) -> Result<Comparison> {
        let tolerance = if self.dtype == DType::F16 { HALF } else { FORWARD };
        Ok(Comparison::new(name, got, &self.tensors.tensor(name)?.1, tolerance))
    }

    /// [`Golden::compare`], of values (N, H, W, C) with a recorded image (N, C, H, W).
    ///
    /// # Errors
    /// As [`Golden::tensor`].
    pub fn compare_image(&self, name: &str, got: &[f32]) -> Result<Comparison> {
        let [n, c, h, w] = self.shape(name)?;
        if got.len() != n * c * h * w {
            return self.compare(name, got);
        }
        self.compare(name, &nhwc_to_nchw(got, [n, h, w, c]))
    }

    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = self.tensors.shape(name);
        let shape = shape.ok_or_else(|| anyhow!("{}: no tensor {name}", self.tensors.name()))?;
        match <[usize; N]>::try_from(shape) {
            Ok(shape) if !shape.contains(&0) => Ok(shape),
            _ => bail!("{}: {name} has shape {shape:?}, expected {N} dimensions", self.tensors.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Comparison;

    #[test]
    fn wrong_numbers_and_counts_never_hold() {
        assert_eq!(Comparison::new("x", &[1.0, 2.0], &[1.0, 4.0], 0.5).error, 0.5);
        assert!(Comparison::new("x", &[0.0], &[0.0], 0.0).holds());
        for got in [&[f32::NAN, 0.0][..], &[f32::INFINITY, 0.0], &[0.0, f32::NAN], &[0.0], &[]] {
            assert!(!Comparison::new("x", got, &[0.0, 1.0], 1e3).holds(), "{got:?}");
        }
        assert_eq!(Comparison::exact("ids", &[1, 2, 3, 4], &[1, 2, 3, 5]).error, 0.25);
        assert!(!Comparison::exact("ids", &[1], &[1, 2]).holds());
    }
}
