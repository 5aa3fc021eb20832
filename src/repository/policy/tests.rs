//! What policies keep.
