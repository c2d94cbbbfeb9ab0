//! Rows of a table by index, and back.
