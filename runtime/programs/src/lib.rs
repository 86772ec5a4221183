//! The static programs that kernelet carries: shim, pod init, hello.
//!
//! **Invariant:** they are the same bytes in a debug and in a release build of what carries them.

/// The pod's shim, run from a sealed memfd.
pub static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernelet-shim"));
/// Pid 1 of a pod that shares its process namespace.
pub static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernelet-init"));
/// The example's HTTP echo server, the content of its image.
pub static HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernelet-hello"));

#[cfg(test)]
mod tests {
    #[test]
    fn each_program_is_static_and_small() {
        for (name, program, most) in [
            ("shim", super::SHIM, 3 << 19),
            ("init", super::INIT, 3 << 19),
            ("hello", super::HELLO, 3 << 19),
        ] {
            assert!(program.starts_with(b"\x7fELF"), "{name} is no program");
            // ET_EXEC: at a fixed address, hence without a dynamic loader.
            assert_eq!(program[16], 2, "{name} is position-independent");
            assert!(program.len() <= most, "{name} has {} bytes", program.len());
        }
    }
}
