//! Pooling and nearest upsampling.
