//! Models on a device: weights, plans, and what goes in and comes out.

pub mod chat;
pub mod painter;
