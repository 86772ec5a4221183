//! The static programs that kernelet carries: shim, pod init, hello.

/// The pod's shim, run from a sealed memfd.
pub static SHIM: &[u8] = &[];
/// Pid 1 of a pod that shares its process namespace.
pub static INIT: &[u8] = &[];
/// The example's HTTP echo server, the content of its image.
pub static HELLO: &[u8] = &[];
