//! Optimizer steps that update states in place.
