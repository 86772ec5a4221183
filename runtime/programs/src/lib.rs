//! The static programs that kernelet carries: shim, pod init, hello.
//!
//! **Invariant:** they are the same bytes in a debug and in a release build of what carries them. They are carried
//! packed, and unpacked when they are asked for: a few milliseconds, once.

/// The pod's shim, run from a sealed memfd.
pub fn shim() -> Vec<u8> {
    unpack(include_bytes!(concat!(
        env!("OUT_DIR"),
        "/kernelet-shim.zst"
    )))
}

/// Pid 1 of a pod that shares its process namespace.
pub fn init() -> Vec<u8> {
    unpack(include_bytes!(concat!(
        env!("OUT_DIR"),
        "/kernelet-init.zst"
    )))
}

/// The example's HTTP echo server, the content of its image.
pub fn hello() -> Vec<u8> {
    unpack(include_bytes!(concat!(
        env!("OUT_DIR"),
        "/kernelet-hello.zst"
    )))
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    zstd::decode_all(packed).expect("the build packed it")
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_program_is_static_and_small() {
        for (name, program) in [
            ("shim", super::shim()),
            ("init", super::init()),
            ("hello", super::hello()),
        ] {
            assert!(program.starts_with(b"\x7fELF"), "{name} is no program");
            // ET_EXEC: at a fixed address, hence without a dynamic loader.
            assert_eq!(program[16], 2, "{name} is position-independent");
            let size = program.len();
            assert!(size <= 7 << 18, "{name} has {size} bytes");
        }
    }
}
