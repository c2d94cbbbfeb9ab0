//! Where the numbers of tensors lie in a file: what every reader makes of its format.

use crate::data::elements::Element;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a reader finds in a file.
#[derive(Default)]
pub(super) struct Found {
    pub tensors: Vec<(String, Stored)>,
    pub metadata: BTreeMap<String, String>,
    pub header: Map<String, Value>,
    pub remarks: Vec<String>,
}

/// Where a file has the numbers of a tensor.
#[derive(Clone)]
pub(super) struct Stored {
    pub element: Element,
    /// In torch's layout.
    pub shape: Vec<usize>,
    /// Numbers from one place to the next along each dimension, where they do not lie one after the other.
    pub strides: Option<Vec<usize>>,
    /// Bytes of the file from the first number to the last.
    pub range: Range<usize>,
}

impl Stored {
    /// Rows of it, or what else its first dimension counts; nothing where these do not begin with a whole unit of numbers.
    pub fn rows(&self, rows: Range<usize>) -> Option<Stored> {
        let mut shape = self.shape.clone();
        *shape.first_mut()? = rows.len();
        let each: usize = shape[1..].iter().product();
        let (first, count) = match &self.strides {
            Some(strides) => (rows.start * strides[0], span(&shape, strides)?),
            None => (rows.start * each, rows.len() * each),
        };
        let start = self.range.start + self.element.bytes(first)?;
        let end = start + self.element.bytes(count.next_multiple_of(self.element.unit()[0]))?;
        Some(Stored { element: self.element, shape, strides: self.strides.clone(), range: start..end })
    }

    /// Places of the numbers, in order, counted from the first.
    pub fn places(&self, strides: &[usize]) -> Vec<usize> {
        let mut places = vec![0];
        for (&size, stride) in self.shape.iter().zip(strides) {
            places = places.iter().flat_map(|&place| (0..size).map(move |i| place + i * stride)).collect();
        }
        places
    }
}

/// Numbers from the first to the last of a tensor with these strides.
pub(super) fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let last = |(&size, stride): (&usize, &usize)| (size.checked_sub(1)?).checked_mul(*stride);
    match shape.contains(&0) {
        true => Some(0),
        false => shape.iter().zip(strides).try_fold(1usize, |sum, dim| sum.checked_add(last(dim)?)),
    }
}
