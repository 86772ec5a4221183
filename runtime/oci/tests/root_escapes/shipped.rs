//! The shipped program has nothing that weakens it.

use crate::harness::{shipped, weakened};

const NAME: &[u8] = b"KERNELET_WEAKENED";

fn has_it(program: &std::path::Path) -> bool {
    let bytes = std::fs::read(program).unwrap();
    bytes.windows(NAME.len()).any(|window| window == NAME)
}

#[test]
fn the_shipped_program_cannot_be_weakened() {
    assert!(!has_it(&shipped()), "{}", shipped().display());
    match weakened() {
        Some(program) => assert!(has_it(&program), "this test would find nothing"),
        None => println!("SKIP shipped: KERNELET_OCI_WEAKENED names no program"),
    }
}
