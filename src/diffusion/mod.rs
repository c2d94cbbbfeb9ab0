//! Samplers of diffusion models: noise schedules, step formulas, and the loop that paints an image.
pub mod scheduler;
