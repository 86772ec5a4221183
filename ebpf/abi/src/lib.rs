//! Map keys and values, shared by both sides; no_std.
