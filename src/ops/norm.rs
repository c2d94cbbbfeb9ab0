//! Layer, group, RMS and batch normalisation.
