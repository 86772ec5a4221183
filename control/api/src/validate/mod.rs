//! Upstream's validation, one function a kind.
