//! The static programs that kernelet carries: shim, pod init, hello.
