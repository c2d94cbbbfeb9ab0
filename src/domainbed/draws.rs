//! Random draws of a step, and other numbers that are made anew for each.

use crate::data::rng::Key;
use anyhow::{Result, bail};
use std::collections::VecDeque;

/// A minibatch, for an algorithm that makes other inputs for it.
pub struct Batch<'a> {
    /// The step, from 0 on.
    pub step: u32,
    /// Number of training environments.
    pub envs: usize,
    /// Samples of each.
    pub size: usize,
    /// Labels of all samples.
    pub labels: &'a [u32],
    /// The run's seed.
    pub seed: u64,
    /// Where draws come from.
    pub draws: &'a mut Draws,
}

/// The numbers of an input.
pub enum Values {
    /// Of a [`crate::core::DType::F32`].
    F32(Vec<f32>),
    /// Of a [`crate::core::DType::U32`].
    U32(Vec<u32>),
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Values {
        Values::F32(values)
    }
}

impl From<f32> for Values {
    fn from(value: f32) -> Values {
        Values::F32(vec![value])
    }
}

impl From<Vec<u32>> for Values {
    fn from(values: Vec<u32>) -> Values {
        Values::U32(values)
    }
}

impl From<Key> for Values {
    fn from(key: Key) -> Values {
        Values::U32(key.0.to_vec())
    }
}

/// Where random numbers come from.
pub enum Draws {
    /// Functions of (seed, step, number of the draw).
    Seeded {
        /// Draws of this step so far.
        next: u32,
    },
    /// What upstream drew in one step, in order.
    Recorded(VecDeque<Draw>),
}

/// One draw of upstream's.
#[derive(Clone, Debug)]
pub enum Draw {
    /// Numbers below n in random order.
    Permutation(Vec<usize>),
    /// A beta variate.
    Beta(f32),
    /// A number below n.
    Integer(usize),
    /// Uniform numbers in [0, 1).
    Uniform(Vec<f32>),
    /// Normal numbers.
    Normal(Vec<f32>),
}

impl Batch<'_> {
    /// The key of what is random for `purpose` on the device in this step.
    pub fn key(&self, purpose: &str) -> Key {
        Key::new(self.seed, self.step, purpose)
    }

    /// The numbers below `n` in random order.
    ///
    /// # Errors
    /// A recording that holds something else here, as for all draws.
    pub fn permutation(&mut self, n: usize) -> Result<Vec<usize>> {
        match self.draw() {
            Ok(key) => Ok(key.permutation(n)),
            Err(Some(Draw::Permutation(order))) if order.len() == n => Ok(order),
            Err(other) => unexpected(other, &format!("a permutation of {n}")),
        }
    }

    /// A number below `n`.
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn below(&mut self, n: usize) -> Result<usize> {
        match self.draw() {
            Ok(key) => Ok(key.below(0, n as u32) as usize),
            Err(Some(Draw::Integer(value))) if value < n => Ok(value),
            Err(other) => unexpected(other, &format!("a number below {n}")),
        }
    }

    /// A number of the distribution Beta(alpha, alpha).
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn beta(&mut self, alpha: f64) -> Result<f32> {
        match self.draw() {
            Ok(key) => Ok(key.beta(alpha)),
            Err(Some(Draw::Beta(value))) => Ok(value),
            Err(other) => unexpected(other, "a beta variate"),
        }
    }

    /// `n` uniform numbers in [0, 1).
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn uniforms(&mut self, n: usize) -> Result<Vec<f32>> {
        match self.draw() {
            Ok(key) => Ok((0..n as u32).map(|i| key.uniform(i)).collect()),
            Err(Some(Draw::Uniform(values))) if values.len() == n => Ok(values),
            Err(other) => unexpected(other, &format!("{n} uniform numbers")),
        }
    }

    /// `n` normal numbers.
    ///
    /// # Errors
    /// As [`Batch::permutation`].
    pub fn normals(&mut self, n: usize) -> Result<Vec<f32>> {
        match self.draw() {
            Ok(key) => Ok((0..n as u32).map(|i| key.normal(i)).collect()),
            Err(Some(Draw::Normal(values))) if values.len() == n => Ok(values),
            Err(other) => unexpected(other, &format!("{n} normal numbers")),
        }
    }

    /// The key of the next draw, or what was recorded.
    fn draw(&mut self) -> Result<Key, Option<Draw>> {
        match self.draws {
            Draws::Seeded { next } => {
                *next += 1;
                Ok(Key::new(self.seed, self.step, &format!("draw {next}")))
            }
            Draws::Recorded(draws) => Err(draws.pop_front()),
        }
    }
}

fn unexpected<T>(found: Option<Draw>, wanted: &str) -> Result<T> {
    bail!("the recording has {found:?} where {wanted} is drawn")
}
