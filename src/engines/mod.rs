//! Models on a device: weights, plans, and what goes in and comes out.

pub mod chat;
pub mod clip;
pub mod llama;
pub mod painter;
