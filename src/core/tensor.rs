//! The handle of a tensor: which storage, which shape, which element type.

use super::dtype::DType;

/// A tensor of a [`super::Graph`]: a storage and a shape of rank 1 to 4, row-major. Copy; reshaping makes another handle to the same
/// storage and costs nothing.
#[derive(Clone, Copy, PartialEq)]
pub struct Tensor {
    pub(crate) id: usize,
    dims: [usize; 4],
    rank: usize,
    dtype: DType,
}

impl Tensor {
    pub(super) fn new(id: usize, shape: &[usize], dtype: DType) -> Self {
        assert!((1..=4).contains(&shape.len()), "a tensor has 1 to 4 dimensions, not {shape:?}");
        assert!(shape.iter().all(|&d| d > 0), "empty dimension in {shape:?}");
        let mut dims = [1; 4];
        dims[..shape.len()].copy_from_slice(shape);
        Tensor { id, dims, rank: shape.len(), dtype }
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Size of dimension `i`.
    #[track_caller]
    pub fn dim(&self, i: usize) -> usize {
        self.shape()[i]
    }

    /// Size of the last dimension.
    pub fn last(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements. Saturates instead of overflowing; the planner refuses such a tensor.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape().iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn bytes(&self) -> usize {
        self.dtype.bytes(self.len())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape())
    }
}
