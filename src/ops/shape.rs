//! Ops that move elements: permute, concat, slice, pad.
