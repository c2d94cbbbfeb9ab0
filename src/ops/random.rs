//! Random numbers by counter, and dropout.
