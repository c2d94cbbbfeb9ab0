//! Softmax and losses.
