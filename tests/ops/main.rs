//! Every op against an f64 reference on the CPU: values, and gradients by central differences under a random cotangent.
//! A row is `Case::new(name, input shapes).check(op, reference)`; `tests/tidy.rs` fails when a public op has none.

mod attention;
mod augment;
mod conv;
mod coop;
mod elementwise;
mod gather;
mod graph;
mod half;
mod harness;
mod in_place;
mod loss;
mod matmul;
mod norm;
mod optim;
mod pool;
mod random;
mod reduce;
mod shape;
