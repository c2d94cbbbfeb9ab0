//! What the tensors of a LoRA add to the weight of a layer (Hu et al. 2021; LyCORIS: Yeh et al. 2023; DoRA: Liu et al. 2024).
//!
//! Weights are matrices here: a row for each output, and a column for each input and place of a kernel.

use super::keys::Role;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;

/// A tensor of a file, in torch's layout.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    fn columns(&self) -> usize {
        self.values.len() / self.rows().max(1)
    }
}

/// A matrix that is made when it is needed.
#[derive(Clone, Debug)]
enum Matrix {
    Whole(Tensor),
    /// Left times right.
    Product(Tensor, Tensor),
    /// Tucker's form of a kernel: left (outputs, r), core (r, q, places), right (q, inputs).
    Tucker(Tensor, Tensor, Tensor),
}

impl Matrix {
    /// Rows and columns; nothing where its parts do not fit each other.
    fn shape(&self) -> Option<[usize; 2]> {
        match self {
            Matrix::Whole(t) => Some([t.rows(), t.columns()]),
            Matrix::Product(a, b) => (a.columns() == b.rows()).then(|| [a.rows(), b.columns()]),
            Matrix::Tucker(a, core, b) => {
                let fits = core.shape.len() >= 2 && core.shape[0] == a.columns() && core.shape[1] == b.rows();
                fits.then(|| [a.rows(), b.columns() * core.shape[2..].iter().product::<usize>()])
            }
        }
    }

    fn values(&self) -> Vec<f32> {
        match self {
            Matrix::Whole(t) => t.values.clone(),
            Matrix::Product(a, b) => product(&a.values, &b.values, a.rows(), a.columns()),
            Matrix::Tucker(a, core, b) => {
                // Inputs first, place by place, then outputs.
                let (r, q, places) =
                    (core.shape[0], core.shape[1], core.shape[2..].iter().product::<usize>());
                let inputs = b.columns();
                let mut inner = vec![0.0; r * inputs * places];
                for (m, out) in inner.chunks_exact_mut(inputs * places).enumerate() {
                    for n in 0..q {
                        let core = &core.values[(m * q + n) * places..][..places];
                        for (i, out) in out.chunks_exact_mut(places).enumerate() {
                            let w = b.values[n * inputs + i];
                            out.iter_mut().zip(core).for_each(|(out, core)| *out += w * core);
                        }
                    }
                }
                product(&a.values, &inner, a.rows(), r)
            }
        }
    }
}

/// a (rows, inner) times b (inner, columns).
fn product(a: &[f32], b: &[f32], rows: usize, inner: usize) -> Vec<f32> {
    let columns = b.len() / inner.max(1);
    let mut out = vec![0.0; rows * columns];
    for (a, out) in a.chunks_exact(inner.max(1)).zip(out.chunks_exact_mut(columns.max(1))) {
        for (a, b) in a.iter().zip(b.chunks_exact(columns.max(1))) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

/// A difference without its factor.
#[derive(Clone, Debug)]
enum Delta {
    Of(Matrix),
    /// Number by number.
    Hadamard(Matrix, Matrix),
    /// Every number of the first times the whole second.
    Kronecker(Matrix, Matrix),
}

impl Delta {
    fn numbers(&self) -> Option<usize> {
        let count = |m: &Matrix| m.shape().map(|[rows, columns]| rows * columns);
        match self {
            Delta::Of(m) => count(m),
            Delta::Hadamard(a, b) => (a.shape()? == b.shape()?).then(|| count(a))?,
            Delta::Kronecker(a, b) => Some(count(a)? * count(b)?),
        }
    }

    fn values(&self) -> Vec<f32> {
        match self {
            Delta::Of(m) => m.values(),
            Delta::Hadamard(a, b) => {
                let (mut a, b) = (a.values(), b.values());
                a.iter_mut().zip(b).for_each(|(a, b)| *a *= b);
                a
            }
            Delta::Kronecker(a, b) => {
                let ([_, across], [rows, columns]) =
                    (a.shape().unwrap_or_default(), b.shape().unwrap_or_default());
                let (a, b, width) = (a.values(), b.values(), across * columns);
                let mut out = vec![0.0; a.len() * b.len()];
                for (i, a) in a.iter().enumerate() {
                    let (row, column) = (i / across * rows, i % across * columns);
                    for (j, b) in b.chunks_exact(columns).enumerate() {
                        let out = &mut out[(row + j) * width + column..][..columns];
                        out.iter_mut().zip(b).for_each(|(out, b)| *out = a * b);
                    }
                }
                out
            }
        }
    }
}

/// What is done to one tensor of a layer.
#[derive(Clone, Debug)]
pub struct Change {
    delta: Delta,
    scale: f32,
    /// DoRA's lengths.
    magnitude: Option<Tensor>,
}

impl Change {
    /// Whether it belongs to a tensor of this shape.
    pub fn fits(&self, shape: &[usize]) -> bool {
        let numbers: usize = shape.iter().product();
        let lengths = self.magnitude.as_ref().is_none_or(|m| {
            let n = Some(&m.values.len());
            shape.first() == n || shape.get(1) == n
        });
        self.delta.numbers() == Some(numbers) && lengths
    }

    /// Adds it, `weight` times, to the numbers of a tensor of this shape.
    pub fn apply(&self, values: &mut [f32], shape: &[usize], weight: f32) {
        let delta = self.delta.values();
        let Some(magnitude) = &self.magnitude else {
            let scale = weight * self.scale;
            values.iter_mut().zip(delta).for_each(|(v, d)| *v += scale * d);
            return;
        };
        // The direction of what LoRA makes of the weight, and a length that was learnt: W + weight (W' - W).
        let moved: Vec<f32> = values.iter().zip(&delta).map(|(v, d)| v + self.scale * d).collect();
        let columns = moved.len() / shape[0];
        let places = columns / shape.get(1).copied().unwrap_or(1).max(1);
        let by_row = magnitude.values.len() == shape[0] && magnitude.shape.first() == Some(&shape[0]);
        let line = |i: usize| if by_row { i / columns } else { i % columns / places };
        let mut squares = vec![0f64; magnitude.values.len()];
        moved.iter().enumerate().for_each(|(i, v)| squares[line(i)] += f64::from(*v).powi(2));
        for (i, (value, moved)) in values.iter_mut().zip(&moved).enumerate() {
            let length = squares[line(i)].sqrt() as f32 + f32::EPSILON;
            *value += weight * (moved * magnitude.values[line(i)] / length - *value);
        }
    }
}

/// The tensors of one layer, by what they are to its change.
#[derive(Debug, Default)]
pub struct Factors(HashMap<Role, Tensor>);

impl Factors {
    pub fn add(&mut self, role: Role, tensor: Tensor) {
        self.0.insert(role, tensor);
    }

    /// The rank of a plain LoRA.
    pub fn rank(&self) -> Option<usize> {
        self.0.get(&Role::Down).map(Tensor::rows)
    }

    fn take(&mut self, role: Role) -> Option<Tensor> {
        self.0.remove(&role)
    }

    fn number(&mut self, role: Role) -> Option<f32> {
        self.take(role)?.values.first().copied()
    }

    /// The changes that they make, by the tensor that each changes. `outer` is a factor that stands elsewhere.
    ///
    /// # Errors
    /// Tensors that make no change together.
    pub fn changes(mut self, outer: Option<f32>) -> Result<Vec<(&'static str, Change)>> {
        let (alpha, scale) = (self.number(Role::Alpha), self.number(Role::Scale));
        let magnitude = self.take(Role::Magnitude);
        let plain = |t: Tensor| Change { delta: Delta::Of(Matrix::Whole(t)), scale: 1.0, magnitude: None };
        let mut all = vec![];
        all.extend(self.take(Role::Diff).map(|t| ("weight", plain(t))));
        all.extend(self.take(Role::DiffBias).map(|t| ("bias", plain(t))));
        if let Some((delta, rank)) = self.delta()? {
            // Whole factors have no rank, and alpha says nothing then.
            let by_alpha = alpha.zip(rank).map(|(alpha, rank)| alpha / rank.max(1) as f32);
            let scale = scale.or(by_alpha).or(outer).unwrap_or(1.0);
            all.push(("weight", Change { delta, scale, magnitude }));
        }
        if let Some(role) = self.0.keys().next() {
            bail!("its tensors of {role:?} have no others to go with");
        }
        if all.is_empty() {
            bail!("its tensors make no change together");
        }
        Ok(all)
    }

    /// The difference to its weight, and its rank.
    fn delta(&mut self) -> Result<Option<(Delta, Option<usize>)>> {
        if let Some(up) = self.take(Role::Up) {
            let down = self.take(Role::Down).context("an up without a down")?;
            let rank = Some(down.rows());
            let matrix = match self.take(Role::Mid) {
                Some(mid) => Matrix::Tucker(up, mid, down),
                None => Matrix::Product(up, down),
            };
            return Ok(Some((Delta::Of(matrix), rank)));
        }
        let (mut first_rank, mut rank) = (None, None);
        let [first, second] = [self.hada(1, &mut first_rank)?, self.hada(2, &mut rank)?];
        if let (Some(first), Some(second)) = (first, second) {
            return Ok(Some((Delta::Hadamard(first, second), first_rank)));
        }
        let [first, second] = [self.kron(1, &mut rank)?, self.kron(2, &mut rank)?];
        Ok(first.zip(second).map(|(first, second)| (Delta::Kronecker(first, second), rank)))
    }

    /// One of the two matrices of a LoHa.
    fn hada(&mut self, n: u8, rank: &mut Option<usize>) -> Result<Option<Matrix>> {
        let Some(right) = self.take(Role::Hada(n, 'b')) else { return Ok(None) };
        let left = self.take(Role::Hada(n, 'a')).context("a LoHa without all of its factors")?;
        *rank = Some(right.rows());
        Ok(Some(match self.take(Role::Hada(n, 't')) {
            Some(core) => Matrix::Tucker(turned(&left), core, right),
            None => Matrix::Product(left, right),
        }))
    }

    /// One of the two matrices of a LoKr; the second's rank counts, where it has one.
    fn kron(&mut self, n: u8, rank: &mut Option<usize>) -> Result<Option<Matrix>> {
        if let Some(whole) = self.take(Role::Kron(n, 'w')) {
            return Ok(Some(Matrix::Whole(whole)));
        }
        let Some(right) = self.take(Role::Kron(n, 'b')) else { return Ok(None) };
        let left = self.take(Role::Kron(n, 'a')).context("a LoKr without all of its factors")?;
        *rank = Some(right.rows());
        Ok(Some(match self.take(Role::Kron(n, 't')) {
            Some(core) => Matrix::Tucker(turned(&left), core, right),
            None => Matrix::Product(left, right),
        }))
    }
}

/// A matrix with rows for columns: LyCORIS keeps the left factor of Tucker's form so.
fn turned(t: &Tensor) -> Tensor {
    let (rows, columns) = (t.rows(), t.columns());
    let values = (0..rows * columns).map(|i| t.values[i % rows * columns + i / rows]).collect();
    Tensor { shape: vec![columns, rows], values }
}
