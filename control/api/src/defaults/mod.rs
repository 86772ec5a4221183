//! Upstream's defaults, one function a kind.
