//! Attention that never stores the score matrix, and rotary position embedding.
